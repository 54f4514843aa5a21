package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"github.com/runcvm/runcvm/internal/container"
	"github.com/runcvm/runcvm/internal/logfile"
)

type logsFlags struct {
	source, tail, since, until string
	follow, timestamps         bool
}

func (a *app) logsCommand() *cobra.Command {
	var f logsFlags
	cmd := &cobra.Command{
		Use:   "logs [flags] CONTAINER",
		Short: "Print a container's output, byte for byte and on the stream where it was written",
		Long: "Print a container's output, byte for byte and on the stream where it was written, of all of its starts. With -f\n" +
			"also what is written from now on, until the container has ended and is not started again. The log is of bounded\n" +
			"size (setting log.max_size); what is older is gone.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := a.containers().Find(args[0])
			if err != nil {
				return err
			}
			return a.logs(cmd.Context(), e, &f)
		},
	}
	cmd.Flags().StringVar(&f.source, "source", "output", "output, console (the guest's), vmm or monitor")
	cmd.Flags().BoolVarP(&f.follow, "follow", "f", false, "go on with what is written from now on")
	cmd.Flags().StringVarP(&f.tail, "tail", "n", "all", "only so many lines from the end")
	cmd.Flags().StringVar(&f.since, "since", "",
		"only what was written from this moment on: a date and time, seconds since 1970, or how long ago")
	cmd.Flags().StringVar(&f.until, "until", "", "only what was written before this moment")
	cmd.Flags().BoolVarP(&f.timestamps, "timestamps", "t", false, "begin each line with the time at which it was written")
	return cmd
}

var logFiles = map[string]string{
	"output": container.OutputLog, "console": container.ConsoleLog, "vmm": container.VMMLog, "monitor": container.MonitorLog,
}

func (a *app) logs(ctx context.Context, e *container.Entry, f *logsFlags) error {
	now := time.Now()
	p := &logPrinter{app: a, timestamps: f.timestamps, raw: f.source != "output", begun: map[string]bool{}}
	name, ok := logFiles[f.source]
	var serr, terr error
	if !ok {
		serr = fmt.Errorf("--source %q is none of output, console, vmm, monitor", f.source)
	} else if p.raw && (f.timestamps || f.since != "" || f.until != "") {
		serr = fmt.Errorf("--source %s has no times of its lines: leave out --since, --until and --timestamps", f.source)
	}
	tail, err := parseTail(f.tail)
	p.since, terr = momentFlag("since", f.since, now)
	var uerr error
	p.until, uerr = momentFlag("until", f.until, now)
	if err := errors.Join(serr, err, terr, uerr); err != nil {
		return err
	}
	path := filepath.Join(e.Dir, name)
	log, err := logfile.Follow(path)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // it was only read
	if tail >= 0 {
		if err := p.skipTo(log, path, tail); err != nil {
			return err
		}
	}
	if err := p.print(ctx, log, e, f.follow); err != nil {
		return err
	}
	if e.LogLost > 0 && !p.raw {
		fmt.Fprintf(a.stderr, "runcvm: the log of %s is incomplete: its disk was full for %d bytes of output\n", e.Name, e.LogLost)
	}
	return nil
}

// parseTail reads --tail; -1 is all.
func parseTail(s string) (int, error) {
	if s == "all" || s == "" {
		return -1, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0, fmt.Errorf("--tail %q is neither all nor a number of lines", s)
	}
	return max(n, -1), nil
}

// logPrinter prints a log's lines.
type logPrinter struct {
	app          *app
	timestamps   bool
	raw          bool // the lines are no entries
	since, until time.Time
	// begun says of a stream that a part of a line is printed; first is the log's first entry.
	begun map[string]bool
	seen  bool
	// gathered goes to to next.
	gathered []byte
	to       io.Writer
}

// skipTo passes over all but the last lines.
func (p *logPrinter) skipTo(log *logfile.Follower, path string, keep int) error {
	counter, err := logfile.Follow(path)
	if err != nil {
		return err
	}
	defer func() { _ = counter.Close() }() // it was only read
	lines, parts, err := p.count(counter, -1)
	if skip := lines + parts - keep; err == nil && skip > 0 {
		_, _, err = p.count(log, skip)
	}
	return err
}

// count reads lines of output, at most so many unless that is negative, and says how many there were and how many are not ended.
func (p *logPrinter) count(log *logfile.Follower, most int) (lines, parts int, err error) {
	open := map[string]bool{}
	for most < 0 || lines < most {
		line, err := log.Line()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return 0, 0, err
		}
		if p.raw {
			lines++
			continue
		}
		e, err := logfile.ParseEntry(line)
		if err != nil {
			continue
		}
		open[e.Stream] = !e.Ends()
		if e.Ends() {
			lines++
		}
	}
	for _, is := range open {
		if is {
			parts++
		}
	}
	return lines, parts, nil
}

const (
	// followPause lies between two looks at a log that is followed, alivePause between two looks whether its container lives.
	followPause = 50 * time.Millisecond
	alivePause  = 250 * time.Millisecond
)

// print prints the log to its end, or follows it until the container has ended.
func (p *logPrinter) print(ctx context.Context, log *logfile.Follower, e *container.Entry, follow bool) error {
	var looked time.Time
	alive := follow
	for {
		line, err := log.Line()
		if err == nil {
			done, err := p.line(line)
			if done || err != nil {
				return errors.Join(err, p.flush())
			}
			continue
		}
		if !errors.Is(err, io.EOF) {
			return err
		}
		if err := p.flush(); err != nil {
			return err
		}
		if !alive || !p.until.IsZero() && time.Now().After(p.until) {
			return p.rest(log)
		}
		if time.Since(looked) >= alivePause {
			now, err := e.Again()
			if err != nil && !errdefs.IsNotFound(err) {
				return err
			}
			// What it wrote last is read before the end.
			looked, alive = time.Now(), err == nil && now.Alive
			continue
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(followPause):
		}
	}
}

// rest prints a last line that has no end.
func (p *logPrinter) rest(log *logfile.Follower) error {
	if !p.raw {
		return nil // half an entry
	}
	rest, err := log.Rest()
	if err != nil {
		return err
	}
	_, err = p.app.stdout.Write(rest)
	return err
}

// line prints a line of the log. done says that --until has come.
func (p *logPrinter) line(line []byte) (done bool, err error) {
	if p.raw {
		return false, p.write(p.app.stdout, line)
	}
	e, err := logfile.ParseEntry(line)
	if err != nil {
		if p.seen {
			return false, err
		}
		return false, nil // cut when the log was full
	}
	p.seen = true
	switch {
	case !p.until.IsZero() && e.Time.After(p.until):
		return true, nil
	case e.Time.Before(p.since):
		return false, nil
	}
	w := p.app.stdout
	if e.Stream == "stderr" {
		w = p.app.stderr
	}
	content := e.Content
	if p.timestamps && !p.begun[e.Stream] {
		content = append([]byte(e.Time.UTC().Format(eventTime)+" "), content...)
	}
	p.begun[e.Stream] = !e.Ends()
	return false, p.write(w, content)
}

// write gathers what goes to one stream, and keeps the order of the two.
func (p *logPrinter) write(w io.Writer, content []byte) error {
	const block = 64 << 10
	if p.to != w {
		if err := p.flush(); err != nil {
			return err
		}
		p.to = w
	}
	p.gathered = append(p.gathered, content...)
	if len(p.gathered) < block {
		return nil
	}
	return p.flush()
}

func (p *logPrinter) flush() error {
	if len(p.gathered) == 0 {
		return nil
	}
	_, err := p.to.Write(p.gathered)
	p.gathered = p.gathered[:0]
	return err
}
