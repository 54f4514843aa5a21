package vsock

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/emulator/vsock/vhostuser"
)

// Facts of Firecracker v1.16, vsock/csm/mod.rs and vsock/csm/connection.rs.
const (
	// creditThreshold: the guest is told of free room when it thinks there is less than this (CONN_CREDIT_UPDATE_THRESHOLD).
	creditThreshold = 4 << 10
	// connectTimeout is how long the guest has to answer a host program's connect (CONN_REQUEST_TIMEOUT_MS), and
	// shutdownTimeout how long a connection that is shut down may go on (CONN_SHUTDOWN_TIMEOUT_MS). Nothing happens when they
	// have passed until another connection is made: see muxer.sweep.
	connectTimeout  = 2 * time.Second
	shutdownTimeout = 2 * time.Second
)

// connState is where a connection is in its life (csm/mod.rs: ConnState).
type connState uint8

const (
	stateLocalInit   connState = iota // a host program wants to connect; the guest has not answered
	statePeerInit                     // the guest wants to connect; our answer is on its way
	stateEstablished                  //
	stateLocalClosed                  // the host program has closed, or will send no more: that ends both directions
	statePeerClosed                   // the guest has shut down receiving, sending, or both
	stateKilled                       // an RST is on its way
)

// What a connection has to tell the guest, as bits (csm/mod.rs: PendingRx).
const (
	pendRequest = 1 << iota
	pendResponse
	pendRst
	pendRW
	pendCredit
)

// connKey is the two ports of a connection: the host's and the guest's.
type connKey struct{ local, peer uint32 }

// conn is a connection between a Unix socket and the guest's AF_VSOCK socket. Its methods change its state only; the muxer's
// update, which must follow, sees to what the change calls for.
type conn struct {
	key   connKey
	fd    int
	tok   token
	state connState
	// For statePeerClosed: what the guest will do no more.
	recvOff, sendOff bool

	pending  uint8
	queued   bool // in the muxer's queue for the guest
	gone     bool // removed
	readable bool // the socket may have data, or its end
	wantOut  bool // waiting for room in the socket

	allocated bool // the host's port is from allocatePort

	tx txBuf
	// Credit, all modulo 2^32: bytes written to the socket, of which the guest was told lastFwd; bytes sent to the guest, of
	// which it has taken peerFwd, with room for peerAlloc.
	fwd, lastFwd, rx   uint32
	peerAlloc, peerFwd uint32
	expiry             time.Time // zero for none
}

// credit is how many bytes the guest has room for. A guest that takes back what it promised makes this a nonsense, which
// only its own buffers bound.
func (c *conn) credit() uint32 { return c.peerAlloc - (c.rx - c.peerFwd) }

// wantsIn says whether data from the socket can go to the guest now (connection.rs: get_polled_evset). It is true in some
// states in which the data turn into an RST: see control.
func (c *conn) wantsIn() bool {
	switch {
	case c.state == stateKilled, c.state == stateLocalClosed, c.state == statePeerClosed && c.recvOff:
		return false
	}
	return c.credit() != 0
}

// needsCreditUpdate says whether the guest thinks that we have little room left while we have more.
func (c *conn) needsCreditUpdate() bool {
	return txBufSize-(c.fwd-c.lastFwd) < creditThreshold
}

// kill drops the connection as soon as the guest can be told.
func (c *conn) kill() {
	c.state = stateKilled
	c.pending |= pendRst
}

func (c *conn) take(bit uint8) bool {
	had := c.pending&bit != 0
	c.pending &^= bit
	return had
}

// toGuest is what a connection has for the guest.
type toGuest uint8

const (
	nothing toGuest = iota
	control         // a packet without payload; the header is complete
	data            // bytes from the socket
)

// next says what the guest gets from this connection next, and fills in the header (connection.rs: recv_pkt).
func (c *conn) next(h *header, guestCID uint64, now func() time.Time) toGuest {
	*h = header{srcCID: hostCID, dstCID: guestCID, srcPort: c.key.local, dstPort: c.key.peer, typ: typeStream,
		bufAlloc: txBufSize, fwdCnt: c.fwd}
	switch {
	case c.take(pendRst):
		h.op = opRst
	case c.take(pendResponse):
		c.state = stateEstablished
		h.op = opResponse
	case c.take(pendRequest):
		c.expiry = now().Add(connectTimeout)
		h.op = opRequest
	case c.pending&pendRW != 0:
		if c.state != stateEstablished && (c.state != statePeerClosed || c.recvOff) {
			h.op = opRst
			return control
		}
		if c.credit() != 0 {
			h.op = opRW
			return data
		}
		// Room was there when the data came, but the guest has taken it back.
		c.pending &^= pendRW
		c.lastFwd = c.fwd
		h.op = opCreditRequest
	case c.take(pendCredit):
		c.lastFwd = c.fwd
		h.op = opCreditUpdate
	default:
		return nothing
	}
	return control
}

// sent accounts for a data packet of n bytes.
func (c *conn) sent(n uint32) {
	c.rx += n
	c.lastFwd = c.fwd
}

// hostClosed turns the end of the host program's stream into a shutdown of both directions: there is no half-close.
func (c *conn) hostClosed(h *header, now func() time.Time) {
	c.state = stateLocalClosed
	c.expiry = now().Add(shutdownTimeout)
	c.lastFwd = c.fwd
	h.op = opShutdown
	h.flags = shutdownReceive | shutdownSend
}

// fromGuest takes a packet of the guest's (connection.rs: send_pkt). What is not legal in the connection's state is ignored.
func (c *conn) fromGuest(h *header, chain *vhostuser.Chain, io *iovecs, now func() time.Time) {
	c.peerAlloc, c.peerFwd = h.bufAlloc, h.fwdCnt
	established, peerClosed := c.state == stateEstablished, c.state == statePeerClosed
	switch h.op {
	case opRW:
		if established || peerClosed && !c.sendOff {
			c.write(h, chain, io)
		}
	case opResponse:
		if c.state == stateLocalInit {
			c.expiry = time.Time{}
			c.state = stateEstablished
		}
	case opShutdown:
		if established || peerClosed {
			c.shutdown(h.flags, now)
		}
	case opCreditRequest:
		if established || c.state == statePeerInit || peerClosed && !c.sendOff {
			c.pending |= pendCredit
		}
	}
}

// shutdown takes the guest's word that it will not receive, not send, or neither. Only both together mean anything to the host's
// program: its connection is closed, once it has taken what is buffered. Shutting down sending alone never reaches it.
func (c *conn) shutdown(flags uint32, now func() time.Time) {
	first := c.state == stateEstablished
	c.state = statePeerClosed
	c.recvOff = c.recvOff || flags&shutdownReceive != 0
	c.sendOff = c.sendOff || flags&shutdownSend != 0
	if !c.recvOff || !c.sendOff {
		return
	}
	if c.tx.len() == 0 {
		c.pending |= pendRst
	} else if first {
		// A shutdown in two steps sets no time limit (connection.rs: send_pkt, PeerClosed).
		c.expiry = now().Add(shutdownTimeout)
	}
}

// write passes the payload on to the host's program, or holds it where that does not read.
func (c *conn) write(h *header, chain *vhostuser.Chain, io *iovecs) {
	if h.len == 0 {
		return
	}
	io.reset()
	io.addChain(chain, packetHeaderSize, int(h.len))
	if c.tx.len() == 0 {
		n, err := io.send(c.fd)
		for errors.Is(err, unix.EINTR) {
			n, err = io.send(c.fd)
		}
		if err != nil && !errors.Is(err, unix.EAGAIN) {
			c.kill() // the program has gone
			return
		}
		c.fwd += uint32(n)
		io.advance(n)
	}
	if !c.tx.push(io.pieces, io.len) {
		c.kill() // more than the credit that the guest has
		return
	}
	if c.needsCreditUpdate() {
		c.pending |= pendCredit
	}
}

// flush writes what is held, when the socket has room again (connection.rs: notify).
func (c *conn) flush(io *iovecs) {
	if c.tx.len() == 0 {
		return
	}
	n, err := c.tx.flush(c.fd, io)
	c.fwd += uint32(n)
	switch {
	case err != nil && !errors.Is(err, unix.EAGAIN):
		c.kill()
	case c.state == statePeerClosed && c.recvOff && c.sendOff && c.tx.len() == 0:
		c.pending |= pendRst
	case c.needsCreditUpdate():
		c.pending |= pendCredit
	}
}
