package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/runcvm/runcvm/internal/cmdline"
	"github.com/runcvm/runcvm/internal/container"
	"github.com/runcvm/runcvm/internal/monitor"
	"github.com/runcvm/runcvm/internal/monitor/api"
	"github.com/runcvm/runcvm/internal/monitor/attach"
	"github.com/runcvm/runcvm/internal/terminal"
)

// session is this process while it is attached to a container.
type session struct {
	app    *app
	client *attach.Client
	// find returns the container; it is asked when the window's size changes.
	find func() (*container.Entry, error)
	// stdin gives the container this standard input, where it takes one.
	stdin bool
	// keys detach.
	keys    []byte
	signals chan os.Signal
	// proxy hands a signal to the container; nil lets those that ask for an end end this process.
	proxy func(context.Context, os.Signal)
	// redraw has a program that draws on a whole screen do it once more.
	redraw bool
}

// interrupted is an end by a signal that was meant for this process.
type interrupted syscall.Signal

func (i interrupted) Error() string { return "interrupted by " + syscall.Signal(i).String() }

// run returns how the container ended. terminal.ErrDetached and interrupted say that it goes on.
func (s *session) run(ctx context.Context) (attach.Exit, error) {
	defer func() { _ = s.client.Close() }() // that is to detach
	in := terminal.NewDetachReader(os.Stdin, nil)
	if s.stdin && s.client.Stdin {
		if s.client.TTY {
			if !terminal.Is(os.Stdin) {
				return attach.Exit{}, terminal.ErrNotATerminal
			}
			restore, err := terminal.Raw(os.Stdin)
			if err != nil {
				return attach.Exit{}, err
			}
			defer restore()
			in = terminal.NewDetachReader(os.Stdin, s.keys)
		}
		go func() { _ = s.client.Send(in) }() // ends with the input, or with the connection
	}
	type end struct {
		attach.Exit
		err error
	}
	ended := make(chan end, 1)
	go func() {
		exit, err := s.client.Receive(os.Stdout, os.Stderr)
		ended <- end{exit, err}
	}()
	if s.client.TTY {
		s.resize(ctx)
	}
	for {
		select {
		case e := <-ended:
			return e.Exit, e.err
		case <-in.Detached():
			return attach.Exit{}, terminal.ErrDetached
		case sig := <-s.signals:
			switch n, _ := sig.(syscall.Signal); {
			case n == syscall.SIGWINCH && s.client.TTY:
				s.resize(ctx)
			case s.proxy != nil:
				s.proxy(ctx, sig)
			case n == syscall.SIGINT || n == syscall.SIGTERM || n == syscall.SIGHUP || n == syscall.SIGQUIT:
				return attach.Exit{}, interrupted(n)
			}
		}
	}
}

// resize gives the container's terminal the window's size. It fails only where the container has ended, or its guest does not answer.
func (s *session) resize(ctx context.Context) {
	rows, columns := windowSize()
	if rows == 0 {
		return
	}
	e, err := s.find()
	if err != nil {
		return
	}
	c, err := monitor.Dial(ctx, e)
	if err != nil {
		return
	}
	defer func() { _ = c.Close() }() // all that was asked for is answered
	if s.redraw {
		// The same size again would change nothing: so it is another one first, as in Docker.
		s.redraw = false
		_, _ = c.Processes.ResizeExec(ctx, &api.ResizeExecRequest{Rows: uint32(rows) + 1, Columns: uint32(columns)})
	}
	_, _ = c.Processes.ResizeExec(ctx, &api.ResizeExecRequest{Rows: uint32(rows), Columns: uint32(columns)})
}

// windowSize is of the terminal that this process writes to, or else reads from; 0 by 0 where there is none.
func windowSize() (rows, columns uint16) {
	if rows, columns = terminal.Size(os.Stdout); rows == 0 {
		rows, columns = terminal.Size(os.Stdin)
	}
	return rows, columns
}

// sessionError gives the end of a session its exit code. It is nil where the container has ended.
func sessionError(name string, err error) error {
	switch sig := interrupted(0); {
	case err == nil:
		return nil
	case errors.Is(err, terminal.ErrDetached), errors.Is(err, terminal.ErrNotATerminal):
		return err
	case errors.As(err, &sig):
		return &cmdline.ExitError{Err: err, Code: 128 + int(sig)}
	case errors.Is(err, attach.ErrLost):
		return fmt.Errorf("container %s: %w; it was killed, or it had to wait too long for its output to be taken", name, err)
	}
	return fmt.Errorf("container %s: %w", name, err)
}
