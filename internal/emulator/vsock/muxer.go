package vsock

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/emulator/vsock/vhostuser"
)

// Facts of Firecracker v1.16, vsock/unix/mod.rs.
const (
	// maxConnections bounds the connections (MAX_CONNECTIONS).
	maxConnections = 1023
	// maxRsts bounds the RSTs that wait for buffers of the guest's (MUXER_RXQ_SIZE); further ones are dropped.
	maxRsts = 256
)

// firstLocalPort is the first port that a host program's connection gets; the others follow, below 2^31
// (vsock/unix/muxer.rs: allocate_local_port).
const firstLocalPort = 1 << 30

// muxer is the connections, and the queue of those that have something for the guest (vsock/unix/muxer.rs).
type muxer struct {
	cid  uint64
	path string
	log  *slog.Logger
	poll *poller
	io   iovecs

	host       int // the listening socket
	hostTok    token
	active     bool // the guest's driver is there: host programs are let in
	hostPaused bool // no descriptors left to let more in

	conns      map[connKey]*conn
	locals     map[token]int // sockets of host programs that have not said yet where to connect
	localPorts map[uint32]bool
	lastPort   uint32
	nextExpiry time.Time // of all connections, zero for none; may be too early, never too late

	rxq  []rxItem
	rsts int // items of rxq without a connection

	slow *slowConnects
	now  func() time.Time // time.Now, but for tests
}

// rxItem is a connection that has something for the guest, or an RST for ports that have none.
type rxItem struct {
	conn *conn
	key  connKey
}

func newMuxer(cfg Config, log *slog.Logger, poll *poller, host int, wake func()) *muxer {
	return &muxer{
		cid: uint64(cfg.GuestCID), path: cfg.UDSPath, log: log, poll: poll, host: host,
		conns: map[connKey]*conn{}, locals: map[token]int{}, localPorts: map[uint32]bool{},
		lastPort: firstLocalPort - 1,
		slow:     newSlowConnects(wake),
		now:      time.Now,
	}
}

// setActive starts and ends letting host programs in. Until the driver is ready they wait in the socket's backlog
// (vsock/event_handler.rs: register_runtime_events).
func (m *muxer) setActive(active bool) error {
	if m.active == active {
		return nil
	}
	m.active = active
	return m.watchHost()
}

func (m *muxer) watchHost() error {
	want := m.active && !m.hostPaused
	if want == (m.hostTok != 0) {
		return nil
	}
	if !want {
		m.poll.unwatch(m.host, m.hostTok)
		m.hostTok = 0
		return nil
	}
	var err error
	m.hostTok, err = m.poll.watch(m.host, unix.EPOLLIN, m.onHost)
	return err
}

// close ends every connection and lets nobody in any more.
func (m *muxer) close() {
	m.slow.close()
	m.active = false
	_ = m.watchHost() // only stops, which can't fail
	m.closeAll()
}

// closeAll ends every connection.
func (m *muxer) closeAll() {
	for tok, fd := range m.locals {
		m.closeSocket(fd, tok)
	}
	clear(m.locals)
	for _, c := range m.conns {
		m.remove(c)
	}
	m.rxq, m.rsts = nil, 0
}

func (m *muxer) closeSocket(fd int, tok token) {
	m.poll.unwatch(fd, tok)
	_ = unix.Close(fd) // nothing is written late on a Unix socket
	if m.hostPaused {
		m.hostPaused = false
		if err := m.watchHost(); err != nil {
			m.log.Error("vsock lets no host programs in any more", "error", err)
		}
	}
}

// onHost lets a host program in.
func (m *muxer) onHost(uint32) error {
	fd, err := accept(m.host)
	switch {
	case err == nil:
	case transient(err):
		return nil
	default:
		// Out of descriptors or memory: the program stays in the backlog, and epoll would report it over and over.
		m.log.Warn("vsock can't accept a connection now", "error", err)
		m.hostPaused = true
		return m.watchHost()
	}
	if len(m.conns) == maxConnections {
		m.log.Warn("vsock connection limit reached, refusing a host program", "limit", maxConnections)
		_ = unix.Close(fd)
		return nil
	}
	var tok token
	tok, err = m.poll.watch(fd, unix.EPOLLIN, func(uint32) error {
		m.onLocal(fd, tok)
		return nil
	})
	if err != nil {
		m.log.Warn("vsock refuses a host program", "error", err)
		_ = unix.Close(fd)
		return nil
	}
	m.locals[tok] = fd
	return nil
}

// onLocal reads where a host program wants to connect to. What is not there at once, in one piece, is refused.
func (m *muxer) onLocal(fd int, tok token) {
	delete(m.locals, tok)
	port, err := readConnect(fd)
	if err != nil {
		m.log.Info("vsock refuses a host program", "error", err)
		m.closeSocket(fd, tok)
		return
	}
	m.poll.unwatch(fd, tok)
	c := &conn{key: connKey{m.allocatePort(port), port}, fd: fd, state: stateLocalInit, pending: pendRequest, allocated: true}
	if err := m.add(c); err != nil {
		m.log.Info("vsock refuses a host program", "error", err)
		delete(m.localPorts, c.key.local)
		_ = unix.Close(fd)
	}
}

// allocatePort returns a port that no connection of a host program has, nor one of the guest's from the same port.
func (m *muxer) allocatePort(peer uint32) uint32 {
	for {
		m.lastPort = (m.lastPort+1)&^(1<<31) | firstLocalPort
		if !m.localPorts[m.lastPort] && m.conns[connKey{m.lastPort, peer}] == nil {
			m.localPorts[m.lastPort] = true
			return m.lastPort
		}
	}
}

// add takes a new connection in, or leaves its socket to the caller.
func (m *muxer) add(c *conn) error {
	m.sweep()
	if len(m.conns) >= maxConnections {
		return fmt.Errorf("the limit of %d connections is reached", maxConnections)
	}
	var err error
	c.tok, err = m.poll.watch(c.fd, unix.EPOLLIN|unix.EPOLLET, func(events uint32) error {
		m.onSocket(c, events)
		return nil
	})
	if err != nil {
		return err
	}
	m.conns[c.key] = c
	m.update(c)
	return nil
}

// sweep kills the connections whose time has run out. This happens when a connection is added and at no other time
// (vsock/unix/muxer.rs: add_connection): without a new one, a connect that the guest does not answer waits on, and a slow reader
// goes on getting what is held for it.
func (m *muxer) sweep() {
	now := m.now()
	if m.nextExpiry.IsZero() || now.Before(m.nextExpiry) {
		return
	}
	m.nextExpiry = time.Time{}
	for _, c := range m.conns {
		switch {
		case c.expiry.IsZero(), c.state == stateKilled:
		case now.Before(c.expiry):
			m.expect(c.expiry)
		default:
			c.kill()
			m.update(c)
		}
	}
}

func (m *muxer) expect(t time.Time) {
	if m.nextExpiry.IsZero() || t.Before(m.nextExpiry) {
		m.nextExpiry = t
	}
}

// remove ends a connection at once.
func (m *muxer) remove(c *conn) {
	delete(m.conns, c.key)
	if c.allocated {
		delete(m.localPorts, c.key.local)
	}
	m.closeSocket(c.fd, c.tok)
	if c.queued {
		m.rxq = slices.DeleteFunc(m.rxq, func(it rxItem) bool { return it.conn == c })
	}
	c.gone, c.queued = true, false
}

// onSocket is called when a connection's socket has become readable or writable.
func (m *muxer) onSocket(c *conn, events uint32) {
	if events&unix.EPOLLIN != 0 {
		c.readable = true
	}
	if events&unix.EPOLLOUT != 0 {
		c.flush(&m.io)
	}
	m.update(c)
}

// update does what a change of a connection's state calls for.
func (m *muxer) update(c *conn) {
	if c.gone {
		return
	}
	if wantOut := c.tx.len() > 0 && c.state != stateKilled; wantOut != c.wantOut {
		events := uint32(unix.EPOLLIN | unix.EPOLLET)
		if wantOut {
			events |= unix.EPOLLOUT
		}
		if err := m.poll.change(c.fd, c.tok, events); err != nil {
			m.log.Error("vsock drops a connection", "error", err)
			c.kill()
		}
		c.wantOut = wantOut
	}
	if c.readable && c.wantsIn() {
		c.pending |= pendRW
	}
	if !c.expiry.IsZero() && c.state != stateKilled {
		m.expect(c.expiry)
	}
	if c.pending != 0 && !c.queued {
		c.queued = true
		m.rxq = append(m.rxq, rxItem{conn: c, key: c.key})
	}
}

// hasRX says whether there is anything for the guest.
func (m *muxer) hasRX() bool { return len(m.rxq) > 0 }

// next says what the guest gets next and fills in the header. Connections take turns. The one returned needs a call of update.
func (m *muxer) next(h *header) (*conn, toGuest) {
	for len(m.rxq) > 0 {
		it := m.rxq[0]
		m.rxq = m.rxq[1:]
		if it.conn == nil {
			m.rsts--
			*h = header{srcCID: hostCID, dstCID: m.cid, srcPort: it.key.local, dstPort: it.key.peer, typ: typeStream, op: opRst}
			return nil, control
		}
		it.conn.queued = false
		if kind := it.conn.next(h, m.cid, m.now); kind != nothing {
			return it.conn, kind
		}
		m.update(it.conn)
	}
	return nil, nothing
}

// refuse answers a packet that belongs to no connection with an RST.
func (m *muxer) refuse(key connKey) {
	if m.rsts == maxRsts {
		return // the guest takes no packets: vsock/unix/muxer_rxq.rs: push drops it as well
	}
	m.rsts++
	m.rxq = append(m.rxq, rxItem{key: key})
}

// fromGuest takes a packet of the guest's (vsock/unix/muxer.rs: send_pkt). The source's CID is not looked at.
func (m *muxer) fromGuest(h *header, chain *vhostuser.Chain) {
	key := connKey{local: h.dstPort, peer: h.srcPort}
	if h.typ != typeStream {
		m.refuse(key)
		return
	}
	if h.dstCID != hostCID {
		return // without an answer
	}
	c := m.conns[key]
	switch {
	case c == nil && m.slow.has(key):
		if h.op == opRst {
			m.slow.cancel(key)
		}
	case c == nil && h.op == opRequest:
		m.request(key, h.bufAlloc)
	case c == nil:
		m.refuse(key) // an RST too
	case h.op == opRst:
		m.remove(c)
	default:
		waiting := c.state == stateLocalInit
		c.fromGuest(h, chain, &m.io, m.now)
		if waiting && c.state == stateEstablished {
			m.sayOK(c)
		}
		m.update(c)
	}
}

// sayOK tells a host program that the guest has accepted, outside of flow control.
func (m *muxer) sayOK(c *conn) {
	m.io.reset()
	m.io.add(fmt.Appendf(nil, "OK %d\n", c.key.local))
	if n, err := m.io.send(c.fd); err != nil || n != m.io.len {
		c.kill()
	}
}

// request connects the guest to the program that listens at "<path>_<port>", or refuses.
func (m *muxer) request(key connKey, bufAlloc uint32) {
	path := fmt.Sprintf("%s_%d", m.path, key.local)
	fd, err := connectUnix(path)
	if errors.Is(err, unix.EAGAIN) && m.slow.start(key, bufAlloc, path) {
		return
	}
	if err != nil {
		m.refuse(key)
		return
	}
	m.connected(key, bufAlloc, fd)
}

// connected is the second half of request. Firecracker too connects first and counts then.
func (m *muxer) connected(key connKey, bufAlloc uint32, fd int) {
	c := &conn{key: key, fd: fd, state: statePeerInit, pending: pendResponse, peerAlloc: bufAlloc}
	if err := m.add(c); err != nil {
		m.log.Info("vsock refuses the guest's connection", "port", key.local, "error", err)
		_ = unix.Close(fd)
		m.refuse(key)
	}
}

// finishConnects takes in the connections whose listener had a full backlog.
func (m *muxer) finishConnects() {
	for _, r := range m.slow.finished() {
		if r.fd < 0 {
			m.refuse(r.key)
		} else {
			m.connected(r.key, r.bufAlloc, r.fd)
		}
	}
}
