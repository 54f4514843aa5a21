package firecracker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// attemptTimeout bounds one connect: Firecracker drops one that the guest has not answered within 2 s
	// (vsock/defs.rs, CONN_REQUEST_TIMEOUT_MS).
	attemptTimeout = 3 * time.Second
	// retryPause lies between two connects while the guest is booting. A refused connect costs the guest an interrupt.
	retryPause = 10 * time.Millisecond
	// maxGreeting bounds the line "OK port\n".
	maxGreeting = 32
)

// ErrRefused says that nobody in the guest listens on the port, or that the guest has no vsock yet.
var ErrRefused = errors.New("the guest does not answer on vsock")

// Dial connects to a vsock port of the guest through the VMM's Unix socket at path: "CONNECT port\n", answered by
// "OK host_port\n" (Firecracker's docs/vsock.md). One attempt; ErrRefused when the VMM closes instead.
func Dial(ctx context.Context, path string, port uint32) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if errors.Is(err, unix.EAGAIN) {
		// The socket's queue is full: the VMM is stopped, or slower than those who connect.
		err = fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if err != nil {
		return nil, fmt.Errorf("dial vsock port %d: %w", port, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	_ = conn.SetDeadline(time.Now().Add(attemptTimeout))
	if ctx.Err() != nil {
		_ = conn.SetDeadline(time.Unix(1, 0)) // the line above may have undone it
	}
	if err := greet(conn, port); err != nil {
		conn.Close()
		if ctx.Err() != nil {
			err = fmt.Errorf("%w (%w)", ctx.Err(), err)
		}
		return nil, fmt.Errorf("dial vsock port %d: %w", port, err)
	}
	if !stop() {
		conn.Close()
		return nil, fmt.Errorf("dial vsock port %d: %w", port, ctx.Err())
	}
	return conn, conn.SetDeadline(time.Time{})
}

func greet(conn net.Conn, port uint32) error {
	if _, err := fmt.Fprintf(conn, "CONNECT %d\n", port); err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	line, err := readLine(conn)
	if err != nil {
		return err
	}
	number, ok := strings.CutPrefix(line, "OK ")
	if _, err := strconv.ParseUint(number, 10, 32); !ok || err != nil {
		return fmt.Errorf("the VMM greets with %q instead of OK and a port", line)
	}
	return nil
}

// readLine reads a line byte by byte: what follows it is the stream's.
func readLine(conn net.Conn) (string, error) {
	var line []byte
	for len(line) < maxGreeting {
		var b [1]byte
		if _, err := io.ReadFull(conn, b[:]); err != nil {
			return "", fmt.Errorf("%w: %w", ErrRefused, err)
		}
		if b[0] == '\n' {
			return string(line), nil
		}
		line = append(line, b[0])
	}
	return "", fmt.Errorf("the VMM greets with more than a line: %q", line)
}

// DialRetry is Dial, again and again until the guest answers or ctx ends; the last refusal is in the error.
func DialRetry(ctx context.Context, path string, port uint32) (net.Conn, error) {
	for {
		conn, err := Dial(ctx, path, port)
		if err == nil || !errors.Is(err, ErrRefused) {
			return conn, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(retryPause):
		}
	}
}
