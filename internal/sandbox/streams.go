package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
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

// Stdio is the copying of a process's standard files between the guest and here, a connection each. It is the same for a container's
// own process and for a further one, and works in any process that reaches the VMM's vsock socket.
type Stdio struct {
	vsock, container, process string
	log                       *slog.Logger
	silence                   time.Duration // drainTimeout, but in tests

	end   sync.Once
	ended chan struct{} // closed when the process has ended, or nothing more can come
	group sync.WaitGroup

	mu      sync.Mutex
	errs    []error
	outputs []net.Conn
}

func newStdio(vsock, container, process string, log *slog.Logger) *Stdio {
	return &Stdio{vsock: vsock, container: container, process: process, log: log, silence: drainTimeout, ended: make(chan struct{})}
}

// OpenStdio opens the streams of a process of Container.Exec and begins to copy. vsock is the path of the VMM's vsock socket. ctx
// bounds the opening; the guest takes it from the moment when it knows the process, or up to 10 s before.
func OpenStdio(ctx context.Context, vsock, container, process string, streams Streams, log *slog.Logger) (*Stdio, error) {
	s := newStdio(vsock, container, process, log)
	return s, s.open(ctx, streams)
}

// End says that the process has ended: from now on the guest must not be silent for long until the end of the output.
func (o *Stdio) End() { o.end.Do(func() { close(o.ended) }) }

// Drained is closed when all output has been copied.
func (o *Stdio) Drained() <-chan struct{} {
	done := make(chan struct{})
	go func() {
		o.group.Wait()
		close(done)
	}()
	return done
}

// leaveTimeout bounds what Leave waits for.
const leaveTimeout = 5 * time.Second

// Leave says to the guest that no more output is taken, and that the process is to go on without. It is for processes with a terminal;
// others get SIGPIPE at their next output.
func (o *Stdio) Leave() {
	o.mu.Lock()
	for _, conn := range o.outputs {
		// The guest closes when it has taken the word; were it closed here, the word could be lost.
		_ = conn.SetDeadline(time.Now().Add(leaveTimeout))
		_ = guestapi.Accept(conn) // fails only when the guest has closed already
	}
	o.mu.Unlock()
	o.group.Wait()
}

func (o *Stdio) fail(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.errs = append(o.errs, err)
}

// Err says which output was cut short.
func (o *Stdio) Err() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return errors.Join(o.errs...)
}

// open connects all streams at once and begins to copy.
func (o *Stdio) open(ctx context.Context, streams Streams) error {
	var group sync.WaitGroup
	failed := make(chan error, 3)
	connect := func(s guestapi.Stream, copyStream func(net.Conn)) {
		group.Go(func() {
			conn, err := o.openStream(ctx, s)
			if err != nil {
				failed <- err
				return
			}
			copyStream(conn)
		})
	}
	if streams.Stdin != nil {
		connect(guestapi.Stdin, func(conn net.Conn) { go o.send(conn, streams.Stdin) })
	}
	for s, w := range map[guestapi.Stream]io.Writer{guestapi.Stdout: streams.Stdout, guestapi.Stderr: streams.Stderr} {
		if w != nil {
			connect(s, func(conn net.Conn) {
				o.mu.Lock()
				o.outputs = append(o.outputs, conn)
				o.mu.Unlock()
				o.group.Go(func() { o.receive(conn, s, w) })
			})
		}
	}
	group.Wait()
	close(failed)
	return <-failed
}

// openStream connects one stream; the guest has until ctx ends.
func (o *Stdio) openStream(ctx context.Context, s guestapi.Stream) (net.Conn, error) {
	conn, err := firecracker.DialRetry(ctx, o.vsock, guestapi.PortStream)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", s, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	err = guestapi.OpenStream(conn, o.container, o.process, s)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

func (o *Stdio) send(conn net.Conn, r io.ReadCloser) {
	defer conn.Close()
	if err := guestapi.Send(conn, r); err != nil {
		// As with a pipe: whether a process takes all of its input is its own business.
		o.log.Debug("standard input ended early", "error", err)
	}
}

// receive copies one output stream to its end. What is cut short is the process's exit to tell, except where its reader
// has gone, as readers of a pipe do.
func (o *Stdio) receive(conn net.Conn, s guestapi.Stream, w io.Writer) {
	defer conn.Close()
	drain := &drainedConn{Conn: conn, ended: o.ended, silence: o.silence}
	defer drain.watch()()
	sink := &sink{w: w}
	err := guestapi.Receive(drain, sink)
	switch {
	case err == nil:
	case sink.err == nil:
		o.fail(fmt.Errorf("%s's %s was cut short: %w", o.name(), s, err))
	case errors.Is(sink.err, unix.EPIPE):
		o.log.Debug("the output's reader has gone", "stream", s.String())
	default:
		o.fail(fmt.Errorf("%s's %s could not be written: %w", o.name(), s, sink.err))
	}
}

func (o *Stdio) name() string {
	if o.process == "" {
		return "the container"
	}
	return "the process"
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
