package guest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/runcvm/runcvm/internal/guestapi"
)

const (
	// loopbackTimeout bounds a connection within the guest: its peer accepts at once, or its backlog is full.
	loopbackTimeout = 10 * time.Second
	// maxLoopback bounds the connections at once.
	maxLoopback = 1024
)

// loopback holds the connections that the host has had the agent make.
type loopback struct {
	streams namedStreams
	mu      sync.Mutex
	count   int
}

// Dial connects to a port of the guest's loopback address for the host.
func (s *networkService) Dial(ctx context.Context, r *guestapi.NetworkDialRequest) (*guestapi.NetworkDialResponse, error) {
	if !validID(r.Id) || r.Port == 0 || r.Port > 65535 {
		return nil, status.Errorf(codes.InvalidArgument, "connection %.128q to port %d", r.Id, r.Port)
	}
	if err := s.a.state.requireSetup(); err != nil {
		return nil, err
	}
	lo := &s.a.loopback
	if !lo.enter() {
		return nil, status.Errorf(codes.ResourceExhausted, "%d connections are open", maxLoopback)
	}
	host := "127.0.0.1"
	if r.Ipv6 {
		host = "::1"
	}
	d := net.Dialer{Timeout: loopbackTimeout}
	c, err := d.DialContext(ctx, "tcp", net.JoinHostPort(host, fmt.Sprint(r.Port)))
	if err != nil {
		lo.leave()
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	in, out := newStream(guestapi.Stdin), newStream(guestapi.Stdout)
	if err := lo.streams.add(r.Id, in, out); err != nil {
		lo.leave()
		return nil, errors.Join(err, c.Close())
	}
	go func() {
		defer lo.leave()
		defer lo.streams.remove(r.Id)
		join(c.(*net.TCPConn), in, out)
	}()
	return &guestapi.NetworkDialResponse{}, nil
}

func (l *loopback) enter() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.count >= maxLoopback {
		return false
	}
	l.count++
	return true
}

func (l *loopback) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.count--
}

// join copies both ways until both have ended.
func join(c *net.TCPConn, in, out *stream) {
	defer c.Close()
	var group sync.WaitGroup
	for _, s := range []*stream{in, out} {
		group.Go(func() {
			defer s.close()
			conn, err := s.take()
			if err == nil {
				defer conn.Close()
				err = copyHalf(c, s.kind, conn)
			}
			if err != nil {
				slog.Debug("a connection from the host ended early", "error", err)
				// Whatever the other half waits for does not come.
				c.Close()
			}
		})
	}
	group.Wait()
}

func copyHalf(c *net.TCPConn, kind guestapi.Stream, conn net.Conn) error {
	if kind == guestapi.Stdout {
		if err := guestapi.Send(conn, readHalf{c}); err != nil && !errors.Is(err, guestapi.ErrReaderGone) {
			return err
		}
		return nil
	}
	err := guestapi.Receive(conn, c)
	if err == nil {
		err = c.CloseWrite()
	}
	if errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.ENOTCONN) {
		err = nil // the guest's program takes no more
	}
	linger(conn)
	return err
}

// readHalf is the reading side of a connection: its end leaves the other side open.
type readHalf struct{ *net.TCPConn }

func (h readHalf) Close() error { return h.CloseRead() }
