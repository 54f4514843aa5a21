// Package attach carries the standard files of a container between its monitor, which holds them, and those who are attached.
//
// The monitor makes a Hub, adds connections at any time, writes the container's output to it and ends it once. A client Opens
// a connection and then Copies, once.
//
// The protocol on a connection is frames of a type (1 byte), a length (4 bytes, big endian) and a payload of at most 64 KiB:
//
//	client                          monitor
//	  <-- HELLO {"tty":bool,"stdin":bool}, or ERROR text --
//	  -- STDIN bytes -->            as often as there are
//	  <-- STDOUT, STDERR bytes --
//	  <-- EXIT {"code":n,"text":string} --   last
//
// A connection that ends without EXIT is, said by the client, a detaching; said by the monitor, its own end or that the client was
// too slow.
package attach

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Types of frames.
const (
	frameHello  = 1
	frameError  = 2
	frameStdin  = 3
	frameStdout = 4
	frameStderr = 5
	frameExit   = 6
)

const (
	headerSize = 5
	// maxPayload bounds the payload of a frame, in bytes.
	maxPayload = 64 << 10
)

// errProtocol says that the peer sent a frame that is not legal.
var errProtocol = errors.New("the attach protocol is violated")

type hello struct {
	TTY   bool `json:"tty"`
	Stdin bool `json:"stdin"`
}

// Exit is how the container ended.
type Exit struct {
	Code int `json:"code"`
	// Text is what the monitor has to tell beside.
	Text string `json:"text,omitempty"`
}

func header(kind byte, size int) []byte {
	return binary.BigEndian.AppendUint32([]byte{kind}, uint32(size))
}

// writeFrame writes a frame in one piece.
func writeFrame(w io.Writer, kind byte, payload []byte) error {
	_, err := w.Write(append(header(kind, len(payload)), payload...))
	return err
}

// reader reads frames.
type reader struct {
	r   io.Reader
	buf []byte
}

func newReader(r io.Reader) *reader { return &reader{r, make([]byte, maxPayload)} }

// next returns a frame; its payload holds until the next call. At the end of the connection it returns io.EOF between two frames,
// and io.ErrUnexpectedEOF in one.
func (r *reader) next() (kind byte, payload []byte, err error) {
	var h [headerSize]byte
	if _, err := io.ReadFull(r.r, h[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(h[1:])
	if n > maxPayload {
		return 0, nil, fmt.Errorf("%w: a frame of %d bytes", errProtocol, n)
	}
	if _, err := io.ReadFull(r.r, r.buf[:n]); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	return h[0], r.buf[:n], nil
}
