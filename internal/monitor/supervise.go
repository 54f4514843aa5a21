package monitor

import (
	"context"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/runcvm/runcvm/internal/container"
	"github.com/runcvm/runcvm/internal/sandbox"
)

// supervise waits for the container's end, hands signals on meanwhile, and returns the exit code.
func (m *monitor) supervise(ctx context.Context) int {
	ended := make(chan struct{})
	handled := make(chan struct{})
	go func() {
		defer close(handled)
		m.handleEvents(ctx, ended)
	}()
	exit, err := m.container.Wait(ctx)
	if err != nil {
		exit = sandbox.Exit{Code: ExitFailure, Err: err}
	}
	close(ended)
	<-handled
	return m.finish(ctx, exit)
}

// stopGrace is how long a container may take to end after its stop signal; Docker's default.
const stopGrace = 10 * time.Second

// handleEvents acts on what comes from outside until the container has ended.
func (m *monitor) handleEvents(ctx context.Context, ended <-chan struct{}) {
	var timeout <-chan time.Time
	if m.req.Timeout > 0 {
		timeout = time.After(m.req.Timeout)
	}
	callerGone, killAsked := m.callerGone, m.server.killAsked
	var grace <-chan time.Time
	for {
		select {
		case s := <-m.signals:
			m.forward(ctx, s)
		case <-timeout:
			m.logger.Info("the container has run for as long as it may", "timeout", m.req.Timeout)
			m.kill(ctx)
		case <-callerGone:
			m.logger.Info("the caller has ended, so the container is stopped", "signal", m.prep.spec.StopSignal.String())
			callerGone = nil
			m.forward(ctx, m.prep.spec.StopSignal)
			grace = time.After(stopGrace)
		case <-grace:
			m.logger.Info("the container has not stopped in time, so it is killed", "grace", stopGrace)
			m.kill(ctx)
		case <-killAsked:
			killAsked = nil
			m.kill(ctx)
		case <-ended:
			return
		}
	}
}

// forward hands a signal to the container's process. Those that the monitor's own runtime and children cause are not the
// container's.
func (m *monitor) forward(ctx context.Context, s os.Signal) {
	n, ok := s.(syscall.Signal)
	if !ok || n == syscall.SIGCHLD || n == syscall.SIGURG || n == syscall.SIGPIPE {
		return
	}
	if err := m.container.Signal(ctx, int(n)); err != nil {
		m.logger.Warn("signal not delivered", "signal", s.String(), "error", err)
	}
}

// kill ends the container's process, and the VMM where the guest does not answer or does not obey.
func (m *monitor) kill(ctx context.Context) {
	if err := m.container.Signal(ctx, int(syscall.SIGKILL)); err != nil {
		m.logger.Warn("the guest did not take SIGKILL, so the VMM is killed", "error", err)
		m.prep.sandbox.Kill()
	}
}

// finish ends the sandbox, writes the container's end and gives everything up.
func (m *monitor) finish(ctx context.Context, exit sandbox.Exit) int {
	if m.req.Remove {
		m.prep.sandbox.Kill() // its disk goes too
	} else if err := m.prep.sandbox.Shutdown(ctx); err != nil && exit.Err == nil {
		m.logger.Warn("the guest did not shut down in order; its disk is checked at the next start", "error", err)
	}
	m.update(func(r *container.Record) {
		r.State, r.ExitCode, r.OOMKilled = string(sandbox.Stopped), exit.Code, exit.OOMKilled
		r.Finished, r.Pid = time.Now(), 0
		if exit.Err != nil {
			r.Error = exit.Err.Error()
		}
	})
	if exit.Err != nil {
		m.logger.Error("the container ended otherwise than by its process", "error", exit.Err)
		if !m.req.Detach {
			fmt.Fprintf(os.Stderr, "runcvm: container %s: %v\n", m.req.Name, exit.Err)
		}
	}
	for _, err := range []error{
		m.server.close(), m.output.Close(), m.prep.disk.Close(), m.files.Close(m.req.Name, m.req.Remove),
	} {
		if err != nil {
			m.logger.Error("left over", "error", err)
		}
	}
	return exit.Code
}
