// Package vhostuser is the back-end side of the vhost-user protocol, as far as a device with a few split virtqueues and a
// small configuration space needs it: messages from QEMU, the guest's memory, and the rings in it.
//
// Everything that arrives here is foreign. Messages come from QEMU, rings and descriptors from the guest, which may
// change them at any moment: each field is read once, checked, and then used.
//
// A caller owns the event loop. It calls Conn.Read when the socket is readable and hands each message to Backend.Handle.
// Queue methods are legal while Queue.Running is true and only from the goroutine that calls Handle: a message may
// unmap the memory that a Chain points into, so a Chain is good until the next call to Handle.
//
// Format: https://qemu-project.gitlab.io/qemu/interop/vhost-user.html (QEMU 7.2), and virtio 1.1, 2.6 "Split Virtqueues".
package vhostuser

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"
)

// Request is the number of a message from the front-end.
type Request uint32

// Requests that this package answers. The others are refused by number.
const (
	GetFeatures         Request = 1
	SetFeatures         Request = 2
	SetOwner            Request = 3
	ResetOwner          Request = 4
	SetMemTable         Request = 5
	SetVringNum         Request = 8
	SetVringAddr        Request = 9
	SetVringBase        Request = 10
	GetVringBase        Request = 11
	SetVringKick        Request = 12
	SetVringCall        Request = 13
	SetVringErr         Request = 14
	GetProtocolFeatures Request = 15
	SetProtocolFeatures Request = 16
	GetQueueNum         Request = 17
	SetVringEnable      Request = 18
	GetConfig           Request = 24
	SetConfig           Request = 25
)

// Protocol feature bits (VHOST_USER_PROTOCOL_F_*).
const (
	protocolReplyAck = 1 << 3
	protocolConfig   = 1 << 9
)

// Flags of a message: the version in the two low bits, then "this is a reply" and "a reply is wanted".
const (
	flagVersion     = 1
	flagVersionMask = 3
	flagReply       = 1 << 2
	flagNeedReply   = 1 << 3
)

const (
	headerSize = 12 // request, flags, size: three 32-bit words in the host's byte order
	// maxPayload bounds a message. The largest that is answered is a memory table of 8 regions (264 bytes) or a
	// configuration space of 256 bytes with its 12-byte header.
	maxPayload = 1024
	// maxFDs is the number of descriptors of a memory table with VHOST_MEMORY_BASELINE_NREGIONS regions.
	maxFDs = 8
)

// ErrProtocol says that the front-end broke the protocol or asked for what was not negotiated.
var ErrProtocol = errors.New("vhost-user protocol violation")

// Message is one message of the front-end. Its descriptors belong to the receiver.
type Message struct {
	Request Request
	Flags   uint32
	Payload []byte
	FDs     []int
}

// takeFD hands over the only descriptor of a message.
func (m *Message) takeFD() (int, error) {
	if len(m.FDs) != 1 {
		return -1, fmt.Errorf("%w: request %d with %d descriptors, one expected", ErrProtocol, m.Request, len(m.FDs))
	}
	fd := m.FDs[0]
	m.FDs = nil
	return fd, nil
}

// closeFDs closes the descriptors that nobody has taken.
func (m *Message) closeFDs() { closeAll(&m.FDs) }

func closeAll(fds *[]int) {
	for _, fd := range *fds {
		_ = unix.Close(fd) // a descriptor that was received: nothing to do about an error
	}
	*fds = nil
}

// Conn reads messages from, and writes replies to, a connected Unix stream socket in non-blocking mode.
type Conn struct {
	fd  int
	buf [headerSize + maxPayload]byte
	n   int
	fds []int
	oob [256]byte // room for more than maxFDs, so that too many are seen and refused rather than cut off
}

// NewConn wraps a connected socket in non-blocking mode. Close closes it.
func NewConn(fd int) *Conn { return &Conn{fd: fd} }

// FD is the socket, to wait on.
func (c *Conn) FD() int { return c.fd }

// Close closes the socket and the descriptors of a message that was not complete.
func (c *Conn) Close() error {
	closeAll(&c.fds)
	return unix.Close(c.fd)
}

// Read returns the next message, nil when there is none yet, and io.EOF when the front-end has gone between two messages.
// The payload is valid until the next call.
func (c *Conn) Read() (*Message, error) {
	for {
		want, err := c.want()
		if err != nil {
			return nil, err
		}
		if c.n >= headerSize && c.n == want {
			m := &Message{
				Request: Request(binary.NativeEndian.Uint32(c.buf[0:])),
				Flags:   binary.NativeEndian.Uint32(c.buf[4:]),
				Payload: c.buf[headerSize:want],
				FDs:     c.fds,
			}
			c.n, c.fds = 0, nil
			return m, nil
		}
		// Never more than the current message is read, so its descriptors can't be mistaken for the next one's.
		n, oobn, flags, _, err := unix.Recvmsg(c.fd, c.buf[c.n:want], c.oob[:], unix.MSG_CMSG_CLOEXEC)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return nil, nil
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return nil, fmt.Errorf("read from the vhost-user socket: %w", err)
		}
		if err := c.takeRights(c.oob[:oobn]); err != nil {
			return nil, err
		}
		if flags&unix.MSG_CTRUNC != 0 || len(c.fds) > maxFDs {
			return nil, fmt.Errorf("%w: a message with more than %d descriptors", ErrProtocol, maxFDs)
		}
		if n == 0 {
			if c.n != 0 {
				return nil, fmt.Errorf("read from the vhost-user socket: %w", io.ErrUnexpectedEOF)
			}
			return nil, io.EOF
		}
		c.n += n
	}
}

// want is the number of bytes of the current message that are to be read: its header, then all of it.
func (c *Conn) want() (int, error) {
	if c.n < headerSize {
		return headerSize, nil
	}
	if flags := binary.NativeEndian.Uint32(c.buf[4:]); flags&flagVersionMask != flagVersion || flags&flagReply != 0 {
		return 0, fmt.Errorf("%w: a message with flags %#x", ErrProtocol, flags)
	}
	size := binary.NativeEndian.Uint32(c.buf[8:])
	if size > maxPayload {
		return 0, fmt.Errorf("%w: a message of %d bytes, at most %d expected", ErrProtocol, size, maxPayload)
	}
	return headerSize + int(size), nil
}

func (c *Conn) takeRights(oob []byte) error {
	if len(oob) == 0 {
		return nil
	}
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return fmt.Errorf("parse control messages: %w", err)
	}
	for i := range msgs {
		if msgs[i].Header.Level != unix.SOL_SOCKET || msgs[i].Header.Type != unix.SCM_RIGHTS {
			continue
		}
		fds, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			return fmt.Errorf("parse descriptors: %w", err)
		}
		c.fds = append(c.fds, fds...)
	}
	return nil
}

// Reply answers a request. The socket's buffer always has room for a reply: the front-end waits for each.
func (c *Conn) Reply(r Request, payload []byte) error {
	b := make([]byte, headerSize, headerSize+len(payload))
	binary.NativeEndian.PutUint32(b[0:], uint32(r))
	binary.NativeEndian.PutUint32(b[4:], flagVersion|flagReply)
	binary.NativeEndian.PutUint32(b[8:], uint32(len(payload)))
	b = append(b, payload...)
	n, err := unix.SendmsgN(c.fd, b, nil, nil, unix.MSG_NOSIGNAL)
	if err == nil && n != len(b) {
		err = io.ErrShortWrite
	}
	if err != nil {
		return fmt.Errorf("answer vhost-user request %d: %w", r, err)
	}
	return nil
}
