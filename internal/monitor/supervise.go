package monitor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/runcvm/runcvm/internal/container"
	"github.com/runcvm/runcvm/internal/sandbox"
)

const (
	// killGrace is how long a process may take to end after SIGKILL, then its VMM is killed. The guest's kernel may have
	// gigabytes of memory to free, under emulation.
	killGrace = 10 * time.Second
	// readerGrace is how long the container's output may take to be written, once the VMM is dead, when nobody waits for it.
	readerGrace = 2 * time.Second
)

// supervise lives the container's life that has begun, and returns the exit code.
func (m *monitor) supervise(ctx context.Context, l *life) int {
	return m.finish(l.live(ctx))
}

// live waits for the end of the container's process, hands signals on meanwhile, and ends the sandbox.
func (l *life) live(ctx context.Context) sandbox.Exit {
	running, ended := context.WithCancel(ctx)
	defer ended()
	finished := make(chan struct{})
	var workers sync.WaitGroup
	workers.Go(func() { l.forwardAll(running) })
	workers.Go(func() { l.enforce(ctx, running.Done(), finished) })
	exit, err := l.container.Wait(ctx)
	if err != nil {
		exit = sandbox.Exit{Code: ExitFailure, Err: err}
	}
	ended()
	l.end(ctx, !l.req.Remove)
	close(finished)
	workers.Wait()
	return exit
}

// forwardAll hands signals to the container's process until it has ended. It does nothing else: a guest that does not
// answer holds it up for the deadline of each signal.
func (l *life) forwardAll(running context.Context) {
	for {
		select {
		case s := <-l.signals:
			if err := l.forward(running, s); err != nil && running.Err() == nil {
				l.logger.Warn("signal not delivered", "signal", s.String(), "error", err)
			}
		case <-running.Done():
			return
		}
	}
}

func (l *life) forward(ctx context.Context, s os.Signal) error {
	n, ok := s.(syscall.Signal)
	if !ok {
		return fmt.Errorf("%s is no signal of this system", s)
	}
	return l.container.Signal(ctx, int(n))
}

// enforce brings the container to its end where it is asked for, by ever stronger means: the stop signal, SIGKILL, the end
// of the VMM, and giving up the output that nobody reads. It ends when the monitor's work is finished: until then, whoever
// asks for the end is heard.
func (l *life) enforce(ctx context.Context, ended, finished <-chan struct{}) {
	var timeout, grace, obey, reader <-chan time.Time
	if l.req.Timeout > 0 {
		timeout = time.After(l.req.Timeout)
	}
	callerGone, killAsked := l.callerGone, l.server.killAsked
	// unread says that nobody waits for the output any more.
	unread := false
	kill := func() {
		timeout, grace = nil, nil
		if l.kill(ctx) {
			obey = time.After(killGrace)
		} else {
			reader = time.After(readerGrace)
		}
	}
	for {
		select {
		case <-timeout:
			l.logger.Info("the container has run for as long as it may", "timeout", l.req.Timeout)
			kill()
		case <-callerGone:
			l.logger.Info("the caller has ended, so the container is stopped", "signal", l.prep.spec.StopSignal.String())
			callerGone, unread = nil, true
			if err := l.forward(ctx, l.prep.spec.StopSignal); err != nil {
				l.logger.Warn("the guest did not take the stop signal", "error", err)
				kill()
			} else if l.prep.spec.StopTimeout >= 0 {
				grace = time.After(l.prep.spec.StopTimeout)
			}
		case <-grace:
			l.logger.Info("the container has not stopped in time, so it is killed", "grace", l.prep.spec.StopTimeout)
			kill()
		case <-killAsked:
			killAsked, unread = nil, true
			kill()
		case <-obey:
			l.logger.Warn("the container has not ended by SIGKILL, so its VMM is killed", "grace", killGrace)
			l.prep.sandbox.Kill()
			reader = time.After(readerGrace)
		case <-reader:
			if unread {
				l.container.Abandon()
			}
		case <-ended:
			// From here on the container's end is only written down.
			ended, timeout, callerGone, grace, obey = nil, nil, nil, nil, nil
		case <-finished:
			return
		}
	}
}

// kill ends the container's process. Where the guest does not take the signal it kills the VMM, and returns false.
func (l *life) kill(ctx context.Context) bool {
	err := l.container.Signal(ctx, int(syscall.SIGKILL))
	if err == nil {
		return true
	}
	if !errors.Is(err, sandbox.ErrTransition) {
		l.logger.Warn("the guest did not take SIGKILL, so the VMM is killed", "error", err)
	}
	l.prep.sandbox.Kill()
	return false
}

// finish writes the container's end and gives everything up.
func (m *monitor) finish(exit sandbox.Exit) int {
	lost, why := m.output.Lost()
	m.update(func(r *container.Record) {
		r.State, r.ExitCode, r.OOMKilled = string(sandbox.Stopped), exit.Code, exit.OOMKilled
		r.Finished, r.LogLost = time.Now(), lost
		if exit.Err != nil {
			r.Error = exit.Err.Error()
		}
	})
	if exit.Err != nil {
		m.tell("the container did not end by its process alone", exit.Err)
	}
	if lost > 0 {
		m.tell("the log is incomplete", fmt.Errorf("%d bytes of output are not in its log: %w", lost, why))
	}
	for _, err := range []error{m.server.close(), m.attachSocket.Close(), m.output.Close(), m.files.Close(m.req.Name, m.req.Remove)} {
		if err != nil {
			m.tell("something is left over", err)
		}
	}
	return exit.Code
}

// tell logs an error, and says it to the caller who is there.
func (m *monitor) tell(what string, err error) {
	m.logger.Error(what, "error", err)
	if !m.req.Detach {
		fmt.Fprintf(os.Stderr, "runcvm: container %s: %v\n", m.req.Name, err)
	}
}
