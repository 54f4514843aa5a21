package monitor

import (
	"net"
	"sync"
)

// clients counts the connections of a listener.
type clients struct {
	mu    sync.Mutex
	count int
	zero  chan struct{} // closed when count is 0
}

func newClients() *clients {
	c := &clients{zero: make(chan struct{})}
	close(c.zero)
	return c
}

func (c *clients) add(n int) {
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
func (c *clients) none() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.zero
}

// track returns l with its connections counted. It is a pointer, since ttrpc makes listeners keys of a map.
func (c *clients) track(l net.Listener) net.Listener { return &trackedListener{l, c} }

type trackedListener struct {
	net.Listener
	clients *clients
}

func (l *trackedListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.clients.add(1)
	return &trackedConn{Conn: conn, gone: sync.OnceFunc(func() { l.clients.add(-1) })}, nil
}

type trackedConn struct {
	net.Conn
	gone func()
}

func (c *trackedConn) Close() error {
	defer c.gone()
	return c.Conn.Close()
}
