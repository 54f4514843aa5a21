package guest

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// killTimeout is how long killed processes may take to be gone.
	killTimeout = 10 * time.Second
	// answerTimeout is how long the answer to Shutdown may take to reach the host.
	answerTimeout = 300 * time.Millisecond
)

// shutdown kills what runs and unmounts every disk; the guest reboots soon after its answer.
func (a *agent) shutdown() error {
	defer func() { go a.endSoon() }()
	errs := []error{a.copies.stop()}
	for _, c := range a.state.close() {
		if err := killCgroup(c.cgroup()); err != nil {
			errs = append(errs, fmt.Errorf("kill container %s: %w", c.id, err))
		}
		if !c.waitEnded(killTimeout) {
			errs = append(errs, fmt.Errorf("container %s did not end within %s of SIGKILL", c.id, killTimeout))
		}
		if err := c.unmount(); err != nil {
			errs = append(errs, err)
		}
	}
	unix.Sync()
	err := errors.Join(errs...)
	if err != nil {
		slog.Error("shutdown is not clean", "error", err)
	}
	return err
}

// endSoon ends the guest once the host has the answer to Shutdown, which it shows by closing its connection.
func (a *agent) endSoon() {
	select {
	case <-a.calls.none():
	case <-time.After(answerTimeout):
	}
	a.end()
}

// callers counts the host's connections to the service.
type callers struct {
	mu    sync.Mutex
	count int
	zero  chan struct{} // closed when count is 0
}

func newCallers() *callers {
	c := &callers{zero: make(chan struct{})}
	close(c.zero)
	return c
}

func (c *callers) add(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.count == 0 {
		c.zero = make(chan struct{})
	}
	if c.count += n; c.count == 0 {
		close(c.zero)
	}
}

// none is closed when there is no connection.
func (c *callers) none() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.zero
}

// track returns l with its connections counted.
func (c *callers) track(l net.Listener) net.Listener { return trackedListener{l, c} }

type trackedListener struct {
	net.Listener
	callers *callers
}

func (l trackedListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.callers.add(1)
	return &trackedConn{Conn: conn, gone: sync.OnceFunc(func() { l.callers.add(-1) })}, nil
}

type trackedConn struct {
	net.Conn
	gone func()
}

func (c *trackedConn) Close() error {
	defer c.gone()
	return c.Conn.Close()
}
