package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/firecracker"
	"github.com/runcvm/runcvm/internal/guestapi"
)

// drainTimeout is how long a guest may take, once the process has ended, from one byte of its output to the next, or to
// the stream's end.
const drainTimeout = 30 * time.Second

// outputs are the copies of a process's output that are under way.
type outputs struct {
	group sync.WaitGroup

	mu   sync.Mutex
	errs []error
}

// drained is closed when all copies have ended.
func (o *outputs) drained() <-chan struct{} {
	done := make(chan struct{})
	go func() {
		o.group.Wait()
		close(done)
	}()
	return done
}

func (o *outputs) fail(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.errs = append(o.errs, err)
}

// err says which output was cut short.
func (o *outputs) err() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return errors.Join(o.errs...)
}

// open connects all streams at once and begins to copy.
func (c *Container) open(ctx context.Context, streams Streams) error {
	var group sync.WaitGroup
	failed := make(chan error, 3)
	connect := func(s guestapi.Stream, copyStream func(net.Conn)) {
		group.Go(func() {
			conn, err := c.openStream(ctx, s)
			if err != nil {
				failed <- err
				return
			}
			copyStream(conn)
		})
	}
	if streams.Stdin != nil {
		connect(guestapi.Stdin, func(conn net.Conn) { go c.send(conn, streams.Stdin) })
	}
	for s, w := range map[guestapi.Stream]io.Writer{guestapi.Stdout: streams.Stdout, guestapi.Stderr: streams.Stderr} {
		if w != nil {
			connect(s, func(conn net.Conn) { c.output.group.Go(func() { c.receive(conn, s, w) }) })
		}
	}
	group.Wait()
	close(failed)
	return <-failed
}

// openStream connects one stream; the guest has until ctx ends.
func (c *Container) openStream(ctx context.Context, s guestapi.Stream) (net.Conn, error) {
	conn, err := firecracker.DialRetry(ctx, c.s.cfg.Vsock, guestapi.PortStream)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", s, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	err = guestapi.OpenStream(conn, c.id, "", s)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

func (c *Container) send(conn net.Conn, r io.ReadCloser) {
	defer conn.Close()
	if err := guestapi.Send(conn, r); err != nil {
		// As with a pipe: whether a process takes all of its input is its own business.
		c.s.cfg.Log.Debug("standard input ended early", "error", err)
	}
}

// receive copies one output stream to its end. What is cut short is the container's exit to tell, except where its reader
// has gone, as readers of a pipe do.
func (c *Container) receive(conn net.Conn, s guestapi.Stream, w io.Writer) {
	defer conn.Close()
	drain := &drainedConn{Conn: conn, ended: c.ended, silence: c.s.drainTimeout}
	defer drain.watch()()
	sink := &sink{w: w}
	err := guestapi.Receive(drain, sink)
	switch {
	case err == nil:
	case sink.err == nil:
		c.output.fail(fmt.Errorf("the container's %s was cut short: %w", s, err))
	case errors.Is(sink.err, unix.EPIPE):
		c.s.cfg.Log.Debug("the output's reader has gone", "stream", s.String())
	default:
		c.output.fail(fmt.Errorf("the container's %s could not be written: %w", s, sink.err))
	}
}

// sink tells an error of the writer from one of the connection.
type sink struct {
	w   io.Writer
	err error
}

func (s *sink) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	s.err = err
	return n, err
}

// drainedConn is a stream's connection on which the guest must not be silent for long once the process has ended. Time
// that the host's own reader takes does not count.
type drainedConn struct {
	net.Conn
	ended   <-chan struct{}
	silence time.Duration
}

func (d *drainedConn) Read(p []byte) (int, error) {
	select {
	case <-d.ended:
		_ = d.SetReadDeadline(time.Now().Add(d.silence))
	default:
	}
	return d.Conn.Read(p)
}

// watch bounds a read that is under way when the process ends, until the returned function is called.
func (d *drainedConn) watch() (stop func()) {
	quit := make(chan struct{})
	go func() {
		select {
		case <-d.ended:
			_ = d.SetReadDeadline(time.Now().Add(d.silence))
		case <-quit:
		}
	}()
	return func() { close(quit) }
}
