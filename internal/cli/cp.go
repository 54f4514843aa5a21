package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/cmdline"
	"github.com/runcvm/runcvm/internal/container"
	"github.com/runcvm/runcvm/internal/filecopy"
	"github.com/runcvm/runcvm/internal/monitor"
)

func (a *app) cpCommand() *cobra.Command {
	var o filecopy.Options
	var quiet bool
	cmd := &cobra.Command{
		Use:   "cp [flags] CONTAINER:SRC_PATH DEST_PATH|-\n  runcvm cp [flags] SRC_PATH|- CONTAINER:DEST_PATH",
		Short: "Copy files between a container and the host",
		Long: "Copy files and directories between a container and the host.\n\n" +
			"\"-\" as the source reads a tar archive, compressed or not, from standard input and extracts it into a directory of the\n" +
			"container; \"-\" as the destination writes a tar archive of the source to standard output.\n\n" +
			"A path of the container is relative to its root and seen with the container's mounts. A source that ends in \"/.\" stands\n" +
			"for its content. A destination that is a directory gets the copy into it, one that does not exist becomes the copy; its\n" +
			"parent must exist. Modes, times, hard links and holes are kept. Without -a the copies belong to root in a container, and\n" +
			"to the caller on the host. A path of the host with a colon is written with a slash or a dot in front.\n\n" +
			"A container that does not run is booted for the copy, without its process and without its mounts in memory.",
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !cmd.Flags().Changed("quiet") {
				_, err := unix.IoctlGetTermios(int(os.Stdout.Fd()), unix.TCGETS)
				quiet = err != nil
			}
			return a.cp(cmd.Context(), args[0], args[1], o, quiet)
		},
	}
	cmd.Flags().BoolVarP(&o.KeepOwner, "archive", "a", false, "keep the owners (uid and gid) of the source")
	cmd.Flags().BoolVarP(&o.FollowLink, "follow-link", "L", false, "copy what the source leads to where it is a symbolic link")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "show no progress; it is shown at a terminal only")
	return cmd
}

func (a *app) cp(ctx context.Context, source, dest string, o filecopy.Options, quiet bool) (err error) {
	switch "" {
	case source:
		return errors.New("source can not be empty")
	case dest:
		return errors.New("destination can not be empty")
	}
	from, sourcePath := filecopy.SplitArgument(source)
	to, destPath := filecopy.SplitArgument(dest)
	switch {
	case from != "" && to != "":
		return errors.New("copying between containers is not supported")
	case from == "" && to == "":
		return errors.New("must specify at least one container source")
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	ref := from + to
	e, release, err := a.copyable(ctx, ref)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	c, err := filecopy.Open(ctx, e, ref)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }() // all that was asked for is answered
	o.Stdin, o.Stdout = os.Stdin, a.stdout
	verb, copyFiles, what := "from", c.From, ""
	if to != "" {
		verb, copyFiles, what = "to", c.To, to+":"
	}
	done := func() {}
	if !quiet {
		o.Progress, done = a.copyProgress("Copying " + verb + " container - ")
	}
	s, err := copyFiles(ctx, sourcePath, destPath, o)
	done()
	if ctx.Err() != nil && err != nil {
		return &cmdline.ExitError{Err: errors.New("interrupted: the copy is not complete"), Code: 128 + int(syscall.SIGINT)}
	}
	if err != nil {
		return err
	}
	if s.Sockets > 0 {
		fmt.Fprintf(a.stderr, "runcvm: left out %d sockets, which are nothing without their processes; the first is %q\n",
			s.Sockets, s.Socket)
	}
	if !quiet && destPath != filecopy.Stdio {
		fmt.Fprintf(a.stderr, "Successfully copied %s (transferred %s) to %s\n",
			humanSize(s.Content), humanSize(s.Transferred), what+s.Dest)
	}
	return nil
}

// copyable finds a container whose files are to be copied. One whose process does not run is booted without it, until release; its
// disk is only ever mounted by a guest.
func (a *app) copyable(ctx context.Context, ref string) (e *container.Entry, release func() error, err error) {
	for {
		if e, err = a.settled(ctx, ref); err != nil || e.Alive {
			return e, func() error { return nil }, err
		}
		req, err := a.again(e)
		if err != nil {
			return nil, nil, err
		}
		s, err := monitor.Spawn(ctx, req.Maintenance())
		if isBusy(err) {
			continue
		}
		if err != nil {
			return nil, nil, fmt.Errorf("reach the files of container %s: %w", ref, err)
		}
		if e, err = a.containers().Find(e.ID); err != nil {
			return nil, nil, errors.Join(err, s.Release())
		}
		return e, s.Release, nil
	}
}

// progressPeriod lies between two updates of the line at a terminal.
const progressPeriod = 100 * time.Millisecond

// copyProgress keeps a line with the bytes that have gone over, where standard error is a terminal, until done.
func (a *app) copyProgress(title string) (progress func(int64), done func()) {
	if _, err := unix.IoctlGetTermios(int(os.Stderr.Fd()), unix.TCGETS); err != nil {
		return nil, func() {}
	}
	var bytes atomic.Int64
	quit, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(progressPeriod)
		defer tick.Stop()
		for {
			fmt.Fprintf(a.stderr, "\r\x1b[K%s%s", title, humanSize(bytes.Load()))
			select {
			case <-tick.C:
			case <-quit:
				fmt.Fprint(a.stderr, "\r\x1b[K")
				return
			}
		}
	}()
	return bytes.Store, func() {
		close(quit)
		<-ended
	}
}

// humanSize is a number of bytes as Docker shows it.
func humanSize(n int64) string {
	size, units := float64(n), []string{"B", "kB", "MB", "GB", "TB", "PB", "EB"}
	for size >= 1000 && len(units) > 1 {
		size, units = size/1000, units[1:]
	}
	return fmt.Sprintf("%.3g%s", size, units[0])
}
