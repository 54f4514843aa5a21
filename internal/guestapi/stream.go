package guestapi

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// A stream is one vsock connection for one of a process's standard files. Firecracker's vsock has no half-close and drops
// what a slow reader has not taken 2 s after a close, so a stream carries its own end:
//
//	byte  0        type
//	bytes 1..4     length of the payload, big endian, at most MaxPayload
//	bytes 5..      payload
//
//	host                                    agent
//	  -- OPEN  stream, container id [, NUL, process id] -->
//	  <-- ACK (or ERROR text) --
//	  -- DATA ... DATA, EOF -->                    stdin
//	  <-- DATA ... DATA, EOF --                    stdout, stderr
//	  <-- ACK / -- ACK -->                         by the receiver; only then the sender closes
//
// ACK from the receiver before EOF says that it takes no more: its own reader is gone.
const (
	frameOpen  = 1
	frameData  = 2
	frameEOF   = 3
	frameAck   = 4
	frameError = 5

	headerSize = 5
	// MaxPayload is the most that one frame carries, in bytes.
	MaxPayload = 64 << 10
	// maxControl bounds the payload of OPEN and ERROR, in bytes.
	maxControl = 1 << 10
)

// Stream names one of a process's standard files by its descriptor number.
type Stream byte

// The three standard streams.
const (
	Stdin Stream = iota
	Stdout
	Stderr
)

func (s Stream) String() string {
	switch s {
	case Stdin:
		return "stdin"
	case Stdout:
		return "stdout"
	case Stderr:
		return "stderr"
	}
	return fmt.Sprintf("stream(%d)", byte(s))
}

var (
	// ErrReaderGone says that the receiving side has acknowledged before the end: nobody reads there any more.
	ErrReaderGone = errors.New("the stream's reader is gone")
	// ErrProtocol says that the peer sent a frame that is malformed or not legal at this point.
	ErrProtocol = errors.New("stream protocol violation")
)

func appendFrame(b []byte, kind byte, payload []byte) []byte {
	b = append(b, kind)
	b = binary.BigEndian.AppendUint32(b, uint32(len(payload)))
	return append(b, payload...)
}

func writeFrame(w io.Writer, kind byte, payload []byte) error {
	_, err := w.Write(appendFrame(make([]byte, 0, headerSize+len(payload)), kind, payload))
	return err
}

// readHeader reads a frame's header and checks it. At the end of the connection it returns io.EOF between two frames and
// io.ErrUnexpectedEOF inside of one.
func readHeader(r io.Reader) (kind byte, size int, err error) {
	var h [headerSize]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return 0, 0, err
	}
	kind, n := h[0], binary.BigEndian.Uint32(h[1:])
	limit := uint32(0)
	switch kind {
	case frameOpen, frameError:
		limit = maxControl
	case frameData:
		limit = MaxPayload
	case frameEOF, frameAck:
	default:
		return 0, 0, fmt.Errorf("%w: frame of type %d", ErrProtocol, kind)
	}
	if n > limit {
		return 0, 0, fmt.Errorf("%w: %d bytes in a frame of type %d", ErrProtocol, n, kind)
	}
	return kind, int(n), nil
}

// OpenStream is the host's side of the opening: it names the stream on a fresh connection to PortStream and returns when
// the agent has taken it. The process is empty for the container's own, otherwise the id that the host gave another one of the
// container's. A refusal is an error with the agent's reason.
func OpenStream(conn io.ReadWriter, container, process string, s Stream) error {
	name := container
	if process != "" {
		name += "\x00" + process
	}
	if err := writeFrame(conn, frameOpen, append([]byte{byte(s)}, name...)); err != nil {
		return fmt.Errorf("open %s: %w", s, err)
	}
	kind, n, err := readHeader(conn)
	if err != nil {
		return fmt.Errorf("open %s: %w", s, err)
	}
	switch kind {
	case frameAck:
		return nil
	case frameError:
		text := make([]byte, n)
		if _, err := io.ReadFull(conn, text); err != nil {
			return fmt.Errorf("open %s: %w", s, err)
		}
		return fmt.Errorf("open %s: the agent refused: %q", s, text)
	}
	return fmt.Errorf("open %s: %w: answer of type %d", s, ErrProtocol, kind)
}

// AcceptStream is the agent's side of the opening: it reads which stream the host asks for. The caller answers with
// Accept or Refuse.
func AcceptStream(conn io.Reader) (container, process string, s Stream, err error) {
	kind, n, err := readHeader(conn)
	if err != nil {
		return "", "", 0, err
	}
	if kind != frameOpen || n < 2 || n > maxControl {
		return "", "", 0, fmt.Errorf("%w: opening of type %d with %d bytes", ErrProtocol, kind, n)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(conn, b); err != nil {
		return "", "", 0, err
	}
	if s = Stream(b[0]); s > Stderr {
		return "", "", 0, fmt.Errorf("%w: %s", ErrProtocol, s)
	}
	container, process, named := strings.Cut(string(b[1:]), "\x00")
	if container == "" || len(container) > MaxContainerID || len(process) > MaxContainerID || named && process == "" {
		return "", "", 0, fmt.Errorf("%w: opening that names no container or process", ErrProtocol)
	}
	return container, process, s, nil
}

// Accept takes the stream that AcceptStream has read.
func Accept(conn io.Writer) error { return writeFrame(conn, frameAck, nil) }

// Refuse turns the stream down with a reason of at most 1 KiB; what is longer is cut.
func Refuse(conn io.Writer, reason string) error {
	return writeFrame(conn, frameError, []byte(reason[:min(len(reason), maxControl)]))
}

// Send copies r to the peer until r ends, says so, and returns when the peer has acknowledged that it has written every
// byte. When the peer's reader is gone before that, Send closes r, so that a blocked read ends, and returns ErrReaderGone.
// An error of r itself is sent as the end, and returned.
func Send(conn io.ReadWriter, r io.ReadCloser) error {
	ack := make(chan error, 1)
	go func() {
		kind, _, err := readHeader(conn)
		if err == nil && kind != frameAck {
			err = fmt.Errorf("%w: frame of type %d from the receiver", ErrProtocol, kind)
		}
		ack <- err
		// Whether acknowledged or lost: nothing more that r holds can be delivered, nor need a write be waited for that nobody reads.
		if c, ok := conn.(interface{ SetWriteDeadline(time.Time) error }); ok {
			_ = c.SetWriteDeadline(time.Unix(1, 0))
		}
		r.Close()
	}()
	buf := make([]byte, headerSize+MaxPayload)
	buf[0] = frameData
	for {
		n, err := r.Read(buf[headerSize:])
		if n > 0 {
			binary.BigEndian.PutUint32(buf[1:], uint32(n))
			if _, err := conn.Write(buf[:headerSize+n]); err != nil {
				_ = r.Close()
				return lost(err, ack)
			}
		}
		select {
		case early := <-ack:
			if early == nil {
				return ErrReaderGone
			}
			return fmt.Errorf("send: connection lost: %w", early)
		default:
		}
		if err == nil {
			continue
		}
		if werr := writeFrame(conn, frameEOF, nil); werr != nil {
			return lost(werr, ack)
		}
		if aerr := <-ack; aerr != nil {
			return fmt.Errorf("send: not acknowledged: %w", aerr)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		return err
	}
}

// ackGrace is how long Send looks for an acknowledgement on a connection that takes no more: one that is there comes at once.
const ackGrace = time.Second

// lost says why a connection takes no more: a receiver whose reader is gone acknowledges and then closes, which the sender may
// first notice in its next write.
func lost(err error, ack <-chan error) error {
	t := time.NewTimer(ackGrace)
	defer t.Stop()
	select {
	case early := <-ack:
		if early == nil {
			return ErrReaderGone
		}
	case <-t.C:
	}
	return fmt.Errorf("send: %w", err)
}

// Receive copies the peer's bytes to w until the peer says that it ends, and acknowledges. When w fails, Receive
// acknowledges at once, so that the sender stops, and returns w's error; a connection that ends without EOF is
// io.ErrUnexpectedEOF.
func Receive(conn io.ReadWriter, w io.Writer) error {
	buf := make([]byte, MaxPayload)
	for {
		kind, n, err := readHeader(conn)
		if err != nil {
			return fmt.Errorf("receive: %w", unexpected(err))
		}
		switch kind {
		case frameData:
			if _, err := io.ReadFull(conn, buf[:n]); err != nil {
				return fmt.Errorf("receive: %w", unexpected(err))
			}
			if _, err := w.Write(buf[:n]); err != nil {
				return errors.Join(err, writeFrame(conn, frameAck, nil))
			}
		case frameEOF:
			return writeFrame(conn, frameAck, nil)
		default:
			return fmt.Errorf("receive: %w: frame of type %d from the sender", ErrProtocol, kind)
		}
	}
}

// unexpected makes the end of a connection an error where the stream has not ended.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
