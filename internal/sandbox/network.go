package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"

	"github.com/google/uuid"

	"github.com/runcvm/runcvm/internal/firecracker"
	"github.com/runcvm/runcvm/internal/guestapi"
)

// configureNetwork has the agent set up the guest's interfaces.
func (s *Sandbox) configureNetwork(ctx context.Context, r *guestapi.NetworkRequest) error {
	defer s.cfg.Timeline.Phase("network")()
	if _, err := s.network.Configure(ctx, r); err != nil {
		return fmt.Errorf("set the guest's network up: %w", err)
	}
	return nil
}

// DialResolver opens the connection over which the host answers the guest's questions of names. Legal after Boot, where
// BootFiles.Network asked for a resolver.
func (s *Sandbox) DialResolver(ctx context.Context) (net.Conn, error) {
	return firecracker.DialRetry(ctx, s.cfg.Vsock, guestapi.PortResolver)
}

// ServeLoopback connects a connection to a TCP port of the guest's own loopback address, and returns when both directions have
// ended. It closes the connection. Legal after Boot.
func (s *Sandbox) ServeLoopback(ctx context.Context, c *net.TCPConn, port uint16, ipv6 bool) error {
	defer c.Close()
	id := uuid.NewString()
	in, out, err := s.dialLoopback(ctx, id, port, ipv6)
	if err != nil {
		return errors.Join(err, c.SetLinger(0)) // the client sees a reset, the nearest to a refusal
	}
	var group sync.WaitGroup
	var sent, received error
	group.Go(func() {
		defer in.Close()
		sent = guestapi.Send(in, readHalf{c})
	})
	group.Go(func() {
		defer out.Close()
		if received = guestapi.Receive(out, c); received == nil {
			received = c.CloseWrite()
		}
		if received != nil {
			c.Close() // nothing comes any more: no reason to wait for more to send
		}
	})
	group.Wait()
	if errors.Is(sent, guestapi.ErrReaderGone) {
		sent = nil
	}
	return errors.Join(sent, received)
}

// dialLoopback opens both directions.
func (s *Sandbox) dialLoopback(ctx context.Context, id string, port uint16, ipv6 bool) (in, out net.Conn, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if _, err := s.network.Dial(ctx, &guestapi.NetworkDialRequest{Id: id, Port: uint32(port), Ipv6: ipv6}); err != nil {
		return nil, nil, err
	}
	if in, err = s.openNetworkStream(ctx, id, guestapi.Stdin); err != nil {
		return nil, nil, err
	}
	if out, err = s.openNetworkStream(ctx, id, guestapi.Stdout); err != nil {
		return nil, nil, errors.Join(err, in.Close())
	}
	return in, out, nil
}

func (s *Sandbox) openNetworkStream(ctx context.Context, id string, kind guestapi.Stream) (net.Conn, error) {
	o := Stdio{vsock: s.cfg.Vsock, container: guestapi.NetworkStreams, process: id}
	return o.openStream(ctx, kind)
}

// readHalf is the reading side of a connection: its end leaves the other side open.
type readHalf struct{ *net.TCPConn }

func (h readHalf) Close() error { return h.CloseRead() }
