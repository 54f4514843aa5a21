package tapguest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"github.com/runcvm/runcvm/test/serve"
)

// Transfer sends size bytes by TCP from one namespace to an address of another, and returns the time from the connection's begin until the
// receiver has the last of them. With verify the content differs all along, and both sides' SHA-256 must be equal.
func Transfer(ctx context.Context, from, to *Namespace, address netip.Addr, size int64, verify bool) (time.Duration, error) {
	listener, err := Listen(to, address)
	if err != nil {
		return 0, err
	}
	defer listener.Close()
	defer context.AfterFunc(ctx, func() { listener.Close() })()
	type received struct {
		sum []byte
		at  time.Time
		err error
	}
	done := make(chan received, 1)
	go func() {
		sum, err := receive(ctx, listener, size, verify)
		done <- received{sum, time.Now(), err}
	}()
	start := time.Now()
	conn, err := Dial(ctx, from, listener.Addr().String())
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	sum, err := send(conn, size, verify)
	if err != nil {
		return 0, errors.Join(fmt.Errorf("send to %s: %w", address, err), ctx.Err())
	}
	r := <-done
	if r.err != nil {
		return 0, errors.Join(fmt.Errorf("receive at %s: %w", address, r.err), ctx.Err())
	}
	if !bytes.Equal(sum, r.sum) {
		return 0, fmt.Errorf("%d bytes to %s arrived with the checksum %x instead of %x", size, address, r.sum, sum)
	}
	return r.at.Sub(start), nil
}

// Listen listens for TCP connections to any port of an address of a namespace.
func Listen(in *Namespace, address netip.Addr) (l *net.TCPListener, err error) {
	err = in.Do(func() error {
		l, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(address, 0)))
		return err
	})
	return l, err
}

// Dial connects from a namespace to HOST:PORT.
func Dial(ctx context.Context, from *Namespace, address string) (conn net.Conn, err error) {
	err = from.Do(func() error {
		var d net.Dialer
		conn, err = d.DialContext(ctx, "tcp", address)
		return err
	})
	return conn, err
}

// chunk is how much is written at a time.
const chunk = 1 << 20

// send writes the content and ends it.
func send(conn net.Conn, size int64, verify bool) ([]byte, error) {
	b := make([]byte, chunk)
	random := rand.NewChaCha8([32]byte{})
	_, _ = random.Read(b) // never fails
	sum := sha256.New()
	for sent := int64(0); sent < size; {
		n := min(chunk, size-sent)
		if verify {
			// No chunk is as another.
			binary.BigEndian.PutUint64(b[n/2/8*8:], uint64(sent))
			sum.Write(b[:n])
		}
		if _, err := conn.Write(b[:n]); err != nil {
			return nil, err
		}
		sent += n
	}
	return sum.Sum(nil), conn.(*net.TCPConn).CloseWrite()
}

func receive(ctx context.Context, l *net.TCPListener, size int64, verify bool) ([]byte, error) {
	conn, err := l.AcceptTCP()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	sum := sha256.New()
	b := make([]byte, chunk)
	for got := int64(0); ; {
		n, err := conn.Read(b)
		got += int64(n)
		if verify {
			sum.Write(b[:n])
		}
		if errors.Is(err, io.EOF) {
			if got != size {
				return nil, fmt.Errorf("%d bytes instead of %d", got, size)
			}
			return sum.Sum(nil), nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// datagramTimeout bounds the wait for one answer.
const datagramTimeout = 30 * time.Second

// RoundTrips sends a datagram of size bytes count times, each after the answer to the one before, which has the same content, and returns
// how long all took. A lost one is an error.
func RoundTrips(from, to *Namespace, address netip.Addr, size, count int) (time.Duration, error) {
	server, client, err := datagrams(from, to, address)
	if err != nil {
		return 0, err
	}
	defer client.Close()
	defer server.Close()
	go func() { _ = serve.EchoDatagrams(server) }() // until it is closed
	question, answer := make([]byte, size), make([]byte, size+1)
	start := time.Now()
	if err := client.SetDeadline(start.Add(datagramTimeout)); err != nil {
		return 0, err
	}
	for i := range count {
		for j := range question {
			question[j] = byte(i + j)
		}
		if _, err := client.Write(question); err != nil {
			return 0, err
		}
		n, err := client.Read(answer)
		if err != nil {
			return 0, fmt.Errorf("answer %d of %d from %s: %w", i+1, count, address, err)
		}
		if !bytes.Equal(answer[:n], question) {
			return 0, fmt.Errorf("an answer of %d bytes from %s is not what was asked in %d", n, address, size)
		}
	}
	return time.Since(start), nil
}

func datagrams(from, to *Namespace, address netip.Addr) (server, client *net.UDPConn, err error) {
	err = to.Do(func() error {
		server, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(address, 0)))
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	err = from.Do(func() error {
		client, err = net.DialUDP("udp", nil, server.LocalAddr().(*net.UDPAddr))
		return err
	})
	if err != nil {
		server.Close()
	}
	return server, client, err
}
