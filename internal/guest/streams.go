package guest

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/runcvm/runcvm/internal/guestapi"
)

const (
	// openTimeout is how long the host may take to open a stream that it has listed in Start, and to name it once connected.
	openTimeout = 10 * time.Second
	// lingerTimeout is how long the agent waits for the host to close a connection that it has acknowledged.
	lingerTimeout = 10 * time.Second
	// maxOpening bounds the connections that have not named their stream yet.
	maxOpening = 256
)

// stream is one of a container's standard files: the place where the host's connection and the process's pipe meet, in either
// order.
type stream struct {
	kind guestapi.Stream
	// conn holds the host's connection until the pump takes it.
	conn chan net.Conn

	mu     sync.Mutex
	opened bool
	closed bool
	// gone is closed with closed.
	gone chan struct{}
}

func newStream(kind guestapi.Stream) *stream {
	return &stream{kind: kind, conn: make(chan net.Conn, 1), gone: make(chan struct{})}
}

// open hands a connection over. It fails when the stream has one, or takes none any more.
func (s *stream) open(c net.Conn) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.opened:
		return fmt.Errorf("%s is open already", s.kind)
	case s.closed:
		return fmt.Errorf("%s is not used by this process", s.kind)
	}
	if err := guestapi.Accept(c); err != nil {
		return err
	}
	s.opened = true
	s.conn <- c
	return nil
}

// close lets no connection in any more, and drops one that nobody took.
func (s *stream) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.closed = true
		close(s.gone)
	}
	select {
	case c := <-s.conn:
		c.Close()
	default:
	}
}

// isClosed says that the process does not use the stream.
func (s *stream) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// take waits for the host's connection.
func (s *stream) take() (net.Conn, error) {
	t := time.NewTimer(openTimeout)
	defer t.Stop()
	select {
	case c := <-s.conn:
		return c, nil
	case <-s.gone:
		return nil, fmt.Errorf("%s is not used by this process", s.kind)
	case <-t.C:
		s.close()
		return nil, fmt.Errorf("the host did not open %s within %s", s.kind, openTimeout)
	}
}

// serveStreams takes the host's connections and brings each to its stream.
func (a *agent) serveStreams(l net.Listener) error {
	opening := make(chan struct{}, maxOpening)
	for {
		c, err := l.Accept()
		if err != nil {
			return fmt.Errorf("streams: %w", err)
		}
		opening <- struct{}{}
		go func() {
			defer func() { <-opening }()
			a.openStream(c)
		}()
	}
}

func (a *agent) openStream(c net.Conn) {
	err := c.SetDeadline(time.Now().Add(openTimeout))
	var id, process string
	var kind guestapi.Stream
	if err == nil {
		id, process, kind, err = guestapi.AcceptStream(c)
	}
	if err != nil {
		slog.Warn("a stream was not opened", "error", err)
		c.Close()
		return
	}
	s, err := a.findStream(id, process, kind)
	if err == nil {
		// The deadline was for the opening only. It goes first: open hands the connection over.
		err = errors.Join(c.SetDeadline(time.Time{}), s.open(c))
	}
	if err != nil {
		slog.Warn("a stream was refused", "container", id, "process", process, "stream", kind, "error", err)
		if guestapi.Refuse(c, status.Convert(err).Message()) == nil {
			linger(c)
		}
		c.Close()
	}
}

// findStream returns what the host opens: a stream of the container's own process, of what has this id, or of a process of Exec,
// which is waited for.
func (a *agent) findStream(container, id string, kind guestapi.Stream) (*stream, error) {
	if container == guestapi.NetworkStreams {
		if s := a.loopback.streams.find(id, kind); s != nil {
			return s, nil
		}
		return nil, status.Errorf(codes.NotFound, "there is no connection %.128q", id)
	}
	c, err := a.state.get(container)
	if err != nil {
		return nil, err
	}
	if id == "" {
		return c.streams[kind], nil
	}
	if s := c.named.find(id, kind); s != nil {
		return s, nil
	}
	t, err := c.await(id, openTimeout)
	if err != nil {
		return nil, err
	}
	return t.streams[kind], nil
}

// linger waits for the peer's close, so that what was written last is not lost with the connection.
func linger(c net.Conn) {
	if c.SetReadDeadline(time.Now().Add(lingerTimeout)) == nil {
		// Any end is good: the peer's close, or the deadline.
		_, _ = io.Copy(io.Discard, c)
	}
}

// pipeFor makes the pipe of a stream: child is the process's end, blocking as programs expect; ours goes to the pump.
func pipeFor(kind guestapi.Stream) (child, ours *os.File, err error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, fmt.Errorf("pipe of %s: %w", kind, err)
	}
	mine, its := p[0], p[1]
	if kind == guestapi.Stdin {
		mine, its = p[1], p[0]
	}
	if err := unix.SetNonblock(mine, true); err != nil {
		unix.Close(mine)
		unix.Close(its)
		return nil, nil, fmt.Errorf("pipe of %s: %w", kind, err)
	}
	return os.NewFile(uintptr(its), kind.String()), os.NewFile(uintptr(mine), kind.String()), nil
}

// pump moves a stream's bytes until its end; ended is closed when the process has ended.
func (s *stream) pump(pipe *os.File, ended <-chan struct{}) error {
	defer pipe.Close()
	conn, err := s.take()
	if err != nil {
		return err
	}
	defer conn.Close()
	if s.kind != guestapi.Stdin {
		r := newOutput(pipe, ended, false)
		defer r.release()
		if err := guestapi.Send(conn, r); err != nil && !errors.Is(err, guestapi.ErrReaderGone) {
			return fmt.Errorf("%s: %w", s.kind, err)
		}
		return nil
	}
	return receiveStdin(conn, pipe, ended)
}

// inputFile is the agent's end of a process's standard input.
type inputFile interface {
	io.WriteCloser
	SetWriteDeadline(time.Time) error
}

// receiveStdin copies the host's bytes into the process's standard input. It ends when the host says so, when the process closes
// its end, or when the process ends: in the last two cases the host is told that no more is taken.
func receiveStdin(conn net.Conn, pipe inputFile, ended <-chan struct{}) error {
	received := make(chan struct{})
	var waker sync.WaitGroup
	waker.Go(func() {
		select {
		case <-ended:
			// Wakes Receive up, whichever side it waits for.
			_ = conn.SetReadDeadline(time.Now())
			_ = pipe.SetWriteDeadline(time.Now())
		case <-received:
		}
	})
	err := guestapi.Receive(conn, pipe)
	close(received)
	waker.Wait()
	switch {
	case err == nil:
	case errors.Is(err, unix.EPIPE):
		err = nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		// Receive has said it already where it was writing; a host that has heard it may be gone.
		_ = guestapi.Accept(conn)
		err = nil
	default:
		return fmt.Errorf("stdin: %w", err)
	}
	pipe.Close()
	linger(conn)
	return err
}
