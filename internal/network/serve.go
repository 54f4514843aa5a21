package network

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/runcvm/runcvm/internal/guestapi"
)

// Guest is what the namespace's services need of a microVM; *sandbox.Sandbox is one.
type Guest interface {
	// DialResolver opens the connection for questions of names.
	DialResolver(ctx context.Context) (net.Conn, error)
	// ServeLoopback joins a connection with a port of the guest's loopback address, to its end.
	ServeLoopback(ctx context.Context, c *net.TCPConn, port uint16, ipv6 bool) error
}

const (
	// resolverTimeout bounds a question: as long as Docker's resolver may take.
	resolverTimeout = 15 * time.Second
	// maxQuestions bounds the guest's questions under way.
	maxQuestions = 256
	// redialPause keeps a guest that hangs up from using the host's processor.
	redialPause = time.Second
	// maxLoopback bounds the connections to the guest's loopback address.
	maxLoopback = 1024
)

// Serve answers the guest's questions by the namespace's resolver, and hands connections to the namespace's loopback address to the
// guest; interfaces that come and go are told of in the log. Call it once, when the guest has booted; Close ends it. What cannot be is in
// the notes that it returns.
func (b *Binding) Serve(g Guest, log *slog.Logger) (notes []string) {
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	b.undo.AddFunc(func() error {
		cancel()
		group.Wait()
		return nil
	})
	if b.Resolver {
		group.Go(func() { resolve(ctx, g, log) })
	}
	if err := watchChanges(ctx, log); err != nil {
		notes = append(notes, fmt.Sprintf("interfaces that come and go are not told of: %v", err))
	}
	loopback, err := listenLoopback()
	if err != nil {
		return append(notes, fmt.Sprintf("a connection to 127.0.0.1 of the namespace does not reach the guest: %v", err))
	}
	b.undo.AddFunc(loopback.close)
	for _, l := range loopback.listeners {
		group.Go(func() { acceptLoopback(ctx, l, g, log) })
	}
	return notes
}

// resolve answers questions until ctx ends; a connection that is lost is opened again.
func resolve(ctx context.Context, g Guest, log *slog.Logger) {
	for ctx.Err() == nil {
		conn, err := g.DialResolver(ctx)
		if err == nil {
			stop := context.AfterFunc(ctx, func() { conn.Close() })
			err = answer(ctx, conn, guestapi.ResolverAddress+":53")
			stop()
			conn.Close()
		}
		if ctx.Err() != nil {
			return
		}
		log.Debug("the guest's resolver is connected anew", "error", err)
		select {
		case <-time.After(redialPause):
		case <-ctx.Done():
		}
	}
}

// answer asks a resolver what comes over a connection, until that ends. The guest is hostile: more questions at once than a bound wait
// in its own connection.
func answer(ctx context.Context, conn net.Conn, server string) error {
	var mu sync.Mutex
	var group sync.WaitGroup
	defer group.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	busy := make(chan struct{}, maxQuestions)
	for {
		q, err := guestapi.ReadDNS(conn)
		if err != nil {
			return err
		}
		select {
		case busy <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		group.Go(func() {
			defer func() { <-busy }()
			a, err := ask(ctx, server, q)
			if err != nil {
				a = nil
			}
			mu.Lock()
			defer mu.Unlock()
			err = conn.SetWriteDeadline(time.Now().Add(resolverTimeout))
			if err == nil {
				err = guestapi.WriteDNS(conn, guestapi.DNSMessage{Number: q.Number, Transport: q.Transport, Message: a})
			}
			if err != nil {
				conn.Close() // part of a message may be out
			}
		})
	}
}

// ask asks a resolver one question.
func ask(ctx context.Context, server string, q guestapi.DNSMessage) ([]byte, error) {
	d := net.Dialer{Timeout: resolverTimeout}
	conn, err := d.DialContext(ctx, q.Transport.Network(), server)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if err := conn.SetDeadline(time.Now().Add(resolverTimeout)); err != nil {
		return nil, err
	}
	if q.Transport == guestapi.ByUDP {
		if _, err := conn.Write(q.Message); err != nil {
			return nil, err
		}
		b := make([]byte, 65535)
		n, err := conn.Read(b)
		return b[:n], err
	}
	if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(q.Message))), q.Message...)); err != nil {
		return nil, err
	}
	var size [2]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint16(size[:]))
	_, err = io.ReadFull(conn, b)
	return b, err
}

// acceptLoopback hands connections on until the listener is closed.
func acceptLoopback(ctx context.Context, l *net.TCPListener, g Guest, log *slog.Logger) {
	own := l.Addr().(*net.TCPAddr)
	ipv6 := own.IP.To4() == nil
	var group sync.WaitGroup
	defer group.Wait()
	busy := make(chan struct{}, maxLoopback)
	for {
		c, err := l.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			log.Warn("a connection to the guest's loopback address is lost", "error", err)
			time.Sleep(redialPause)
			continue
		}
		busy <- struct{}{}
		group.Go(func() {
			defer func() { <-busy }()
			defer context.AfterFunc(ctx, func() { c.Close() })()
			port, err := originalPort(c, ipv6)
			if err == nil && int(port) == own.Port {
				err = errors.New("it was meant for the monitor itself")
			}
			if err == nil {
				err = g.ServeLoopback(ctx, c, port, ipv6)
			}
			c.Close()
			if err != nil {
				log.Debug("a connection to the guest's loopback address has ended early", "port", port, "error", err)
			}
		})
	}
}
