package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/runcvm/runcvm/internal/cmdline"
	"github.com/runcvm/runcvm/internal/container"
	"github.com/runcvm/runcvm/internal/monitor"
	"github.com/runcvm/runcvm/internal/monitor/attach"
	"github.com/runcvm/runcvm/internal/sandbox"
	"github.com/runcvm/runcvm/internal/terminal"
)

// runAttached runs a container with a terminal. The monitor holds the container's end of it, this process the user's.
func (a *app) runAttached(ctx context.Context, req monitor.Request, detachKeys string) error {
	keys, err := terminal.ParseDetachKeys(detachKeys)
	if err != nil {
		return &cmdline.ExitError{Err: err, Code: monitor.ExitFailure}
	}
	if req.Stdin && !terminal.Is(os.Stdin) {
		return terminal.ErrNotATerminal
	}
	rows, columns := windowSize()
	req.Attached, req.Size = true, sandbox.Size{Rows: rows, Columns: columns}
	signals := monitor.Signals()
	signal.Ignore(syscall.SIGPIPE)
	m, err := a.spawn(ctx, req, signals)
	if err != nil {
		return err
	}
	a.noteEmulation(req)
	client, err := attach.Open(m.Attached)
	if err != nil {
		return &cmdline.ExitError{Err: fmt.Errorf("container %s: %w", req.Name, err), Code: monitor.ExitFailure}
	}
	s := &session{
		app: a, client: client, stdin: true, keys: keys, signals: signals,
		find:  func() (*container.Entry, error) { return a.containers().Find(req.ID) },
		proxy: func(_ context.Context, sig os.Signal) { _ = m.Signal(sig) }, // fails only when the monitor has ended
	}
	exit, err := s.run(ctx)
	if errors.Is(err, terminal.ErrDetached) {
		return m.Detach()
	}
	if err := sessionError(req.Name, err); err != nil && !errors.Is(err, attach.ErrLost) {
		return &cmdline.ExitError{Err: err, Code: monitor.ExitFailure}
	}
	if exit.Text != "" {
		fmt.Fprintf(a.stderr, "runcvm: container %s: %s\n", req.Name, exit.Text)
	}
	return a.waitFor(m, req)
}

// spawn runs the monitor. A signal that asks for an end ends the start.
func (a *app) spawn(ctx context.Context, req monitor.Request, signals <-chan os.Signal) (*monitor.Spawned, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		m   *monitor.Spawned
		err error
	}
	done := make(chan result, 1)
	go func() {
		m, err := monitor.Spawn(ctx, req)
		done <- result{m, err}
	}()
	for {
		select {
		case sig := <-signals:
			if sig == syscall.SIGINT || sig == syscall.SIGTERM || sig == syscall.SIGHUP {
				cancel()
			}
		case r := <-done:
			if r.err != nil {
				return nil, a.startError(req, r.err)
			}
			if ctx.Err() != nil {
				r.m.Interrupt() // the signal came when the start was just over
			}
			return r.m, nil
		}
	}
}

// startError gives a start that failed its exit code.
func (a *app) startError(req monitor.Request, err error) error {
	code := monitor.ExitFailure
	if start := new(monitor.StartError); errors.As(err, &start) {
		code = start.Code
	}
	a.sweep(req)
	return &cmdline.ExitError{Err: err, Code: code}
}

// waitFor takes over the container's exit code when its monitor has ended.
func (a *app) waitFor(m *monitor.Spawned, req monitor.Request) error {
	code, killed, err := m.Wait()
	if killed {
		a.sweep(req)
		fmt.Fprintf(a.stderr, "runcvm: container %s: its monitor was killed, and so were its processes\n", req.Name)
	}
	a.code = code
	return err
}
