// Package callers counts the connections to a ttrpc server, so that it can end once its last caller has an answer, which a caller shows by
// closing its connection: the protocol's own orderly end takes a connection with a call that waits for one without. All calls are legal
// at any time, from any goroutine.
package callers

import (
	"net"
	"sync"
)

// Callers counts connections.
type Callers struct {
	mu    sync.Mutex
	count int
	zero  chan struct{} // closed when count is 0
}

// New returns Callers without a connection.
func New() *Callers {
	c := &Callers{zero: make(chan struct{})}
	close(c.zero)
	return c
}

func (c *Callers) add(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.count == 0 {
		c.zero = make(chan struct{})
	}
	if c.count += n; c.count == 0 {
		close(c.zero)
	}
}

// None returns a channel that is closed when there is no connection.
func (c *Callers) None() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.zero
}

// Track returns l with its connections counted, each from Accept to Close.
func (c *Callers) Track(l net.Listener) net.Listener { return &listener{l, c} }

// listener is used by its pointer, since ttrpc makes listeners keys of a map.
type listener struct {
	net.Listener
	callers *Callers
}

func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.callers.add(1)
	return &conn{Conn: c, gone: sync.OnceFunc(func() { l.callers.add(-1) })}, nil
}

type conn struct {
	net.Conn
	gone func()
}

func (c *conn) Close() error {
	defer c.gone()
	return c.Conn.Close()
}
