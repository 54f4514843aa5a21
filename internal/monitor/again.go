package monitor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/container"
	"github.com/runcvm/runcvm/internal/sandbox"
)

// supervise lives the container's life that has begun, and those that its restart policy and the verbs make follow. It
// returns the exit code of the last one.
func (m *monitor) supervise(ctx context.Context, l *life) int {
	for {
		exit := l.live(ctx)
		if l = m.again(ctx, &exit, time.Since(l.began)); l == nil {
			return m.finish(exit)
		}
	}
}

// again begins the container's next life, after the delay of its restart policy, or returns nil where there is none. A life
// that cannot begin is one that has failed: exit is then how.
func (m *monitor) again(ctx context.Context, exit *sandbox.Exit, ran time.Duration) *life {
	for {
		wish, delay, ok := m.next(exit.Code, ran)
		if !ok {
			return nil
		}
		m.dismissCaller(exit.Code)
		m.update(func(r *container.Record) {
			r.State, r.Finished, r.RestartCount = container.Restarting, time.Now(), m.restarts.count
			setExit(r, *exit)
		})
		if wish == nil && !m.pause(delay) {
			continue
		}
		if err := reapOrphans(); err != nil {
			m.logger.Error("the next microVM may find something in use", "error", err)
		}
		l := m.newLife(time.Now())
		err := l.begin(ctx)
		if err == nil {
			m.fulfil(wish, nil)
			return l
		}
		m.logger.Error("the container could not be started again", "error", err)
		if wish != nil {
			*exit = sandbox.Exit{Code: exitCode(err), Err: err}
			m.fulfil(wish, err)
			continue
		}
		select {
		case <-m.restarts.canceled: // that was why: the container has ended as it did before
		default:
			*exit, ran = sandbox.Exit{Code: exitCode(err), Err: err}, 0
		}
	}
}

// next decides what follows a life's end: the restart that somebody wishes, one by the policy after a delay, or nothing; after
// that no wish is heard any more.
func (m *monitor) next(code int, ran time.Duration) (wish *restartWish, delay time.Duration, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.wish != nil && !m.killed() {
		m.restarts = newRestarts(m.req.Restart)
		close(m.wish.begun)
		return m.wish, 0, true
	}
	if !m.killed() {
		if delay, ok = m.restarts.next(code, ran); ok {
			return nil, delay, true
		}
	}
	close(m.over)
	return nil, 0, false
}

// RefuseStart is why nobody but the engine that has made a container of this bundle starts it, or starts it again: the engine would not
// learn of it, and holds the container's root and network.
func RefuseStart(name string, b *container.Bundle) error {
	return stateError(fmt.Sprintf("container %s was made of a bundle by an engine such as Docker or Podman: start and restart %s by that",
		name, b.ID))
}

// wishRestart notes that somebody wants the container to be booted again; errNotRunning where it has ended for good.
func (m *monitor) wishRestart() (*restartWish, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	select {
	case <-m.over:
		return nil, errNotRunning
	default:
	}
	if m.wish == nil {
		m.wish = &restartWish{begun: make(chan struct{}), done: make(chan struct{})}
	}
	return m.wish, nil
}

func (m *monitor) wished() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.wish != nil
}

// fulfil tells those who wished how it went. One who could not be served ends the container: nobody starts it again.
func (m *monitor) fulfil(wish *restartWish, err error) {
	if wish == nil {
		return
	}
	m.mu.Lock()
	m.wish = nil
	m.mu.Unlock()
	if err == nil {
		m.event("restart")
	}
	wish.err = err
	close(wish.done)
	if err != nil {
		m.cancelRestarts()
	}
}

// killed says whether somebody has asked for the end of the sandbox.
func (m *monitor) killed() bool {
	select {
	case <-m.server.killAsked:
		return true
	default:
		return false
	}
}

// pause waits before the next life. It returns false when somebody has asked for something else meanwhile.
func (m *monitor) pause(delay time.Duration) bool {
	timer := time.NewTimer(delay)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			return true
		case <-m.server.killAsked:
			return false
		case <-m.restarts.canceled:
			return false
		case wish := <-m.stops:
			if !wish.void() {
				m.cancelRestarts()
				return false
			}
		case s := <-m.signals:
			if asksForEnd(s) {
				m.cancelRestarts()
				return false
			}
		}
	}
}

// cancelRestarts ends the restart policy until somebody starts the container.
func (m *monitor) cancelRestarts() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.restarts.cancel()
}

// canceled is closed when the restart policy that is in force is ended.
func (m *monitor) canceled() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.restarts.canceled
}

func asksForEnd(s os.Signal) bool {
	return s == syscall.SIGTERM || s == syscall.SIGINT || s == syscall.SIGHUP
}

// dismissCaller tells the caller of a container that is started again how its first life ended, as docker run ends then, and
// lets go of its standard files.
func (m *monitor) dismissCaller(code int) {
	if m.req.Detach {
		return
	}
	m.req.Detach, m.callerGone = true, nil
	if err := dropStandardFiles(); err != nil {
		m.logger.Error("the caller's standard files are kept", "error", err)
	}
	_ = json.NewEncoder(m.status).Encode(status{Ended: true, Code: code}) // a caller that is gone needs no word
	m.status.Close()
}

func dropStandardFiles() error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	var errs []error
	for fd := range 3 {
		errs = append(errs, unix.Dup3(int(null.Fd()), fd, 0))
	}
	return errors.Join(errs...)
}

// setExit writes into the record how a life ended.
func setExit(r *container.Record, exit sandbox.Exit) {
	r.ExitCode, r.OOMKilled, r.Error = exit.Code, exit.OOMKilled, ""
	if exit.Err != nil {
		r.Error = exit.Err.Error()
	}
}

// finish writes the container's end and gives everything up.
func (m *monitor) finish(exit sandbox.Exit) int {
	lost, why := m.output.Lost()
	m.update(func(r *container.Record) { r.LogLost += lost })
	m.recordEnd(exit)
	if exit.Err != nil {
		m.tell("the container did not end by its process alone", exit.Err)
	}
	if lost > 0 {
		m.tell("the log is incomplete", fmt.Errorf("%d bytes of output are not in its log: %w", lost, why))
	}
	name := m.name()
	m.server.ended(exit.Code)
	if err := m.closeAll(func() error { return m.files.Close(name, m.req.Remove) }); err != nil {
		m.tell("something is left over", err)
	}
	return exit.Code
}

// recordEnd writes into the record that the container has ended.
func (m *monitor) recordEnd(exit sandbox.Exit) {
	m.update(func(r *container.Record) {
		r.State, r.Finished = string(sandbox.Stopped), time.Now()
		setExit(r, exit)
	})
}

// closeAll gives up what open has made, and then the container itself.
func (m *monitor) closeAll(last func() error) error {
	return errors.Join(m.server.close(), m.attachSocket.Close(), m.closeNetworks(), m.output.Close(), last())
}

// name is the container's; it may be renamed at any time.
func (m *monitor) name() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.record.Name
}
