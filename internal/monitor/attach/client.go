package attach

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// helloTimeout bounds the monitor's first word.
const helloTimeout = 30 * time.Second

// ErrLost says that the connection ended without the container's.
var ErrLost = errors.New("the monitor has let go of the connection")

// Client is one who is attached.
type Client struct {
	// TTY says that the container has a terminal: all output is standard output then. Stdin says that it takes input.
	TTY, Stdin bool
	conn       net.Conn
	r          *reader
}

// Open reads the monitor's first word on a connection. On an error, the monitor's refusal among them, the connection is closed.
func Open(conn net.Conn) (*Client, error) {
	c := &Client{conn: conn, r: newReader(conn)}
	if err := c.open(); err != nil {
		conn.Close()
		return nil, err
	}
	return c, nil
}

func (c *Client) open() error {
	if err := c.conn.SetReadDeadline(time.Now().Add(helloTimeout)); err != nil {
		return err
	}
	kind, payload, err := c.r.next()
	switch {
	case err != nil:
		return fmt.Errorf("attach: %w", err)
	case kind == frameError:
		return errors.New(string(payload))
	case kind != frameHello:
		return fmt.Errorf("attach: %w: a frame of type %d", errProtocol, kind)
	}
	var h hello
	if err := json.Unmarshal(payload, &h); err != nil {
		return fmt.Errorf("attach: %w: %w", errProtocol, err)
	}
	c.TTY, c.Stdin = h.TTY, h.Stdin
	return c.conn.SetReadDeadline(time.Time{})
}

// Send copies r to the container's standard input until one of the two ends. The end of r is not the container's.
func (c *Client) Send(r io.Reader) error {
	buf := make([]byte, headerSize+maxPayload)
	for {
		n, err := r.Read(buf[headerSize:])
		if n > 0 {
			copy(buf, header(frameStdin, n))
			if _, err := c.conn.Write(buf[:headerSize+n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// Receive writes the container's output until its end. ErrLost says that this client was let go; an error of a writer is returned
// as it is.
func (c *Client) Receive(stdout, stderr io.Writer) (Exit, error) {
	for {
		kind, payload, err := c.r.next()
		if err != nil {
			return Exit{}, fmt.Errorf("%w (%w)", ErrLost, err)
		}
		switch kind {
		case frameStdout:
			_, err = stdout.Write(payload)
		case frameStderr:
			_, err = stderr.Write(payload)
		case frameExit:
			var e Exit
			if err := json.Unmarshal(payload, &e); err != nil {
				return Exit{}, fmt.Errorf("attach: %w: %w", errProtocol, err)
			}
			return e, nil
		default:
			err = fmt.Errorf("attach: %w: a frame of type %d", errProtocol, kind)
		}
		if err != nil {
			return Exit{}, err
		}
	}
}

// Close detaches.
func (c *Client) Close() error { return c.conn.Close() }
