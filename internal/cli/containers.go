package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/container"
	"github.com/runcvm/runcvm/internal/monitor"
	"github.com/runcvm/runcvm/internal/monitor/api"
)

func (a *app) rmCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "rm [flags] CONTAINER...",
		Short: "Remove containers that have ended",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var errs []error
			for _, ref := range args {
				e, err := a.containers().Find(ref)
				if err == nil {
					err = a.remove(cmd.Context(), e, force)
				}
				if force && errdefs.IsNotFound(err) {
					a.tell(err) // no failure, as with Docker
					continue
				}
				if err == nil {
					fmt.Fprintln(a.stdout, ref)
				}
				errs = append(errs, err)
			}
			return errors.Join(errs...)
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "kill those that run")
	cmd.Flags().BoolP("volumes", "v", false, "as without it: a container's data is in its own disk")
	return cmd
}

func (a *app) remove(ctx context.Context, e *container.Entry, force bool) error {
	switch {
	case !e.Alive:
	case e.State == "stopped":
		// Its monitor is about to end.
		wait, cancel := context.WithTimeout(ctx, killTimeout)
		defer cancel()
		if err := e.AwaitEnd(wait); err != nil && !force {
			return err
		} else if err != nil {
			return errors.Join(a.kill(ctx, e), e.Discard())
		}
	case !force:
		return fmt.Errorf("container %s is %s; \"runcvm rm -f %s\" kills and removes it", e.Name, e.State, e.Name)
	default:
		if err := a.kill(ctx, e); err != nil {
			return err
		}
	}
	return e.Discard()
}

const (
	// killTimeout is how long a monitor may take to end its sandbox before it is killed itself: the guest's deadline for a
	// signal and for an orderly shutdown.
	killTimeout = 30 * time.Second
	// askTimeout bounds the asking.
	askTimeout = 5 * time.Second
)

// kill ends a container through its monitor, or with its monitor where that does not answer.
func (a *app) kill(ctx context.Context, e *container.Entry) error {
	pidfd, err := a.monitorPidfd(e)
	if err != nil {
		return err
	}
	if pidfd < 0 {
		if again, err := a.containers().Find(e.ID); err == nil && again.Alive && again.Pid != e.Pid {
			return a.kill(ctx, again) // it was started again meanwhile
		}
		return nil
	}
	defer unix.Close(pidfd)
	asked := askToKill(ctx, e)
	if asked == nil && ended(pidfd, killTimeout) {
		return nil
	}
	if err := unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return errors.Join(fmt.Errorf("kill the monitor of %s: %w", e.Name, err), asked)
	}
	// The processes of its pid namespace, the VMM among them, end before it does.
	if !ended(pidfd, killTimeout) {
		return errors.Join(fmt.Errorf("the monitor of %s (pid %d) does not end", e.Name, e.Pid), asked)
	}
	return nil
}

func askToKill(ctx context.Context, e *container.Entry) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	c, err := monitor.Dial(ctx, e)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }() // all that was asked for is answered
	_, err = c.Kill(ctx, &api.KillRequest{})
	return err
}

// ended waits until the process is gone.
func ended(pidfd int, timeout time.Duration) bool {
	deadline := time.Now().Add(timeout)
	for {
		left := max(time.Until(deadline), 0)
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, int(left.Milliseconds()))
		if !errors.Is(err, unix.EINTR) {
			return n == 1
		}
	}
}

func (a *app) timelineCommand() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "timeline [flags] CONTAINER",
		Short: "Show how long each phase of a container's start took",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			e, err := a.containers().Find(args[0])
			if err != nil {
				return err
			}
			t, err := e.ReadTimeline()
			if err != nil {
				return err
			}
			switch format {
			case "chart":
				return t.Chart(a.stdout, terminalWidth())
			case "json":
				return json.NewEncoder(a.stdout).Encode(t)
			case "svg":
				return t.SVG(a.stdout, fmt.Sprintf("%s (%s, %s)", e.Name, e.Image, filepath.Base(e.VMM.Path)))
			}
			return fmt.Errorf("--format %q is none of chart, svg, json", format)
		},
	}
	cmd.Flags().StringVar(&format, "format", "chart", "chart, svg (a picture), or json")
	return cmd
}

// terminalWidth is standard output's in columns, or 100 where it is no terminal.
func terminalWidth() int {
	ws, err := unix.IoctlGetWinsize(int(os.Stdout.Fd()), unix.TIOCGWINSZ)
	if err != nil || ws.Col == 0 {
		return 100
	}
	return int(ws.Col)
}
