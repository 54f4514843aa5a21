package monitor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"

	"github.com/runcvm/runcvm/internal/sandbox"
)

const (
	// killGrace is how long a process may take to end after SIGKILL, then its VMM is killed. The guest's kernel may have
	// gigabytes of memory to free, under emulation.
	killGrace = 10 * time.Second
	// readerGrace is how long the container's output may take to be written, once the VMM is dead, when nobody waits for it.
	readerGrace = 2 * time.Second
)

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
	l.recordDeath(exit)
	l.end(ctx, !l.req.Remove || l.wished())
	close(finished)
	workers.Wait()
	if exit.OOMKilled {
		if err := l.reportOOM(ctx); err != nil {
			l.logger.Warn("engines do not hear that the container was short of memory", "error", err)
		}
	}
	if l.stopped {
		l.event("stop")
	}
	return exit
}

// recordDeath writes the events of the process's end.
func (l *life) recordDeath(exit sandbox.Exit) {
	if exit.OOMKilled {
		l.event("oom")
	}
	l.event("die", "exitCode", strconv.Itoa(exit.Code), "execDuration", strconv.Itoa(int(time.Since(l.began).Seconds())))
}

// forwardAll hands signals to the container's process until it has ended. It does nothing else: a guest that does not
// answer holds it up for the deadline of each signal.
func (l *life) forwardAll(running context.Context) {
	for {
		select {
		case s := <-l.signals:
			if s == syscall.SIGWINCH && l.ownsTerminal() {
				l.resizeTerminal(running)
				continue
			}
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
	callerGone, killAsked, stops := l.callerGone, l.server.killAsked, l.stops
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
	stop := func(wish stopWish) {
		l.cancelRestarts()
		l.stopped = true
		wish = l.resolve(wish)
		if err := l.signalToEnd(ctx, wish.signal); err != nil {
			l.logger.Warn("the guest did not take the stop signal", "error", err)
			kill()
		} else if wish.grace >= 0 {
			grace = time.After(wish.grace)
		} else {
			grace = nil
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
			stop(stopWish{own: true})
		case wish := <-stops:
			if !wish.void() {
				stop(wish)
			}
		case <-grace:
			l.logger.Info("the container has not stopped in time, so it is killed")
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
			ended, timeout, callerGone, grace, obey, stops = nil, nil, nil, nil, nil, nil
		case <-finished:
			return
		}
	}
}

// resolve fills in what a wish leaves to the container.
func (l *life) resolve(w stopWish) stopWish {
	if w.signal == 0 {
		w.signal = int(l.prep.spec.StopSignal)
	}
	if w.own {
		w.grace = l.prep.spec.StopTimeout
	}
	return w
}

// signalToEnd sends a signal that the container is to end by. One that is paused is woken, or it would never see it.
func (l *life) signalToEnd(ctx context.Context, signal int) error {
	paused := l.container.State() == sandbox.Paused
	if err := l.signal(ctx, signal); err != nil {
		return err
	}
	if !paused {
		return nil
	}
	err := l.resume(ctx)
	if errors.Is(err, sandbox.ErrTransition) || errors.Is(err, errdefs.ErrFailedPrecondition) {
		return nil // SIGKILL ends what is frozen, too, and has done so by now
	}
	return err
}

// signal sends a signal that somebody has asked for.
func (l *life) signal(ctx context.Context, signal int) error {
	if state := l.container.State(); state == sandbox.Running || state == sandbox.Paused {
		l.event("kill", "signal", strconv.Itoa(signal)) // before what follows of it
	}
	return l.container.Signal(ctx, signal)
}

// kill ends the container's process. Where the guest does not take the signal it kills the VMM, and returns false.
func (l *life) kill(ctx context.Context) bool {
	err := l.signalToEnd(ctx, int(syscall.SIGKILL))
	if err == nil {
		return true
	}
	if !errors.Is(err, sandbox.ErrTransition) {
		l.logger.Warn("the guest did not take SIGKILL, so the VMM is killed", "error", err)
	}
	l.prep.sandbox.Kill()
	return false
}

// tell logs an error, and says it to the caller who is there.
func (m *monitor) tell(what string, err error) {
	m.logger.Error(what, "error", err)
	// The standard error of one that is made of a bundle is the container's own.
	if !m.req.Detach && m.req.Bundle == nil {
		fmt.Fprintf(os.Stderr, "runcvm: container %s: %v\n", m.name(), err)
	}
}
