package vhostuser

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// Device feature bits (virtio 1.1, section 6, and VHOST_USER_F_PROTOCOL_FEATURES).
const (
	FeatureVersion1   = 1 << 32
	FeatureEventIdx   = 1 << 29
	featureProtocol   = 1 << 30
	maxConfig         = 256 // VHOST_USER_MAX_CONFIG_SIZE
	configHeader      = 12  // offset, size, flags
	vringIndexMask    = 0xff
	vringNoDescriptor = 1 << 8
)

// Watcher is told which descriptors carry the driver's notifications.
type Watcher interface {
	// Watch starts to wait for queue i's notifications at fd, an eventfd in non-blocking mode.
	Watch(i, fd int) error
	// Unwatch stops it, before fd is closed.
	Unwatch(i, fd int)
}

// Backend is the state of one device that a front-end drives by messages.
type Backend struct {
	conn     *Conn
	watcher  Watcher
	features uint64 // offered
	acked    uint64
	protocol uint64 // acknowledged protocol features
	config   []byte
	mem      *memory
	queues   []*Queue
}

// NewBackend makes a device with n queues, the given device features and configuration space (at most 256 bytes).
func NewBackend(conn *Conn, w Watcher, n int, features uint64, config []byte) *Backend {
	b := &Backend{conn: conn, watcher: w, features: features | featureProtocol, config: config}
	for range n {
		b.queues = append(b.queues, newQueue())
	}
	return b
}

// Queue is queue i, the same for the life of the backend.
func (b *Backend) Queue(i int) *Queue { return b.queues[i] }

// Close unmaps the guest's memory and closes every descriptor that the front-end has passed, but not the Conn.
func (b *Backend) Close() {
	for i, q := range b.queues {
		b.dropKick(i)
		setFD(&q.call, -1)
		setFD(&q.err, -1)
	}
	if b.mem != nil {
		b.mem.unmap()
		b.mem = nil
	}
}

// Handle carries out a message and answers it where an answer is due. An error that the front-end has been told about
// (it negotiated REPLY_ACK and asked) is not returned: what it does then is its own decision.
func (b *Backend) Handle(m *Message) error {
	reply, err := b.handle(m)
	m.closeFDs()
	if reply != nil {
		return b.conn.Reply(m.Request, reply)
	}
	if m.Flags&flagNeedReply != 0 && b.protocol&protocolReplyAck != 0 {
		ack := make([]byte, 8) // 0 is success
		if err != nil {
			ack[0] = 1
		}
		return b.conn.Reply(m.Request, ack)
	}
	return err
}

// handle carries out a message. A reply of nil means that the request has none of its own.
func (b *Backend) handle(m *Message) ([]byte, error) {
	switch m.Request {
	case GetFeatures:
		return u64(b.features), nil
	case GetProtocolFeatures:
		return u64(protocolReplyAck | protocolConfig), nil
	case GetQueueNum:
		return u64(uint64(len(b.queues))), nil
	case GetConfig:
		return b.getConfig(m.Payload), nil
	case SetFeatures:
		return nil, b.setFeatures(m)
	case SetProtocolFeatures:
		v, err := m.u64()
		if err == nil && v&^(protocolReplyAck|protocolConfig) != 0 {
			err = fmt.Errorf("%w: protocol features %#x were not offered", ErrProtocol, v)
		}
		if err == nil {
			b.protocol = v
		}
		return nil, err
	case SetOwner:
		return nil, nil
	case ResetOwner:
		for i := range b.queues {
			b.dropKick(i)
		}
		return nil, nil
	case SetMemTable:
		return nil, b.setMemory(m)
	case SetVringKick, SetVringCall, SetVringErr:
		return nil, b.setVringFD(m)
	case SetVringAddr:
		return nil, b.setVringAddr(m)
	case SetVringNum, SetVringBase, SetVringEnable, GetVringBase:
		return b.vringState(m)
	case SetConfig:
		return nil, fmt.Errorf("%w: the configuration space can't be written", ErrProtocol)
	}
	return nil, fmt.Errorf("%w: request %d is not supported", ErrProtocol, m.Request)
}

func (m *Message) u64() (uint64, error) {
	if len(m.Payload) != 8 {
		return 0, fmt.Errorf("%w: request %d with %d bytes, 8 expected", ErrProtocol, m.Request, len(m.Payload))
	}
	return binary.NativeEndian.Uint64(m.Payload), nil
}

func u64(v uint64) []byte { return binary.NativeEndian.AppendUint64(nil, v) }

func (b *Backend) setFeatures(m *Message) error {
	v, err := m.u64()
	if err != nil {
		return err
	}
	if v&^b.features != 0 {
		return fmt.Errorf("%w: features %#x were not offered", ErrProtocol, v&^b.features)
	}
	b.acked = v
	for _, q := range b.queues {
		q.eventIdx = v&FeatureEventIdx != 0
	}
	return nil
}

// getConfig answers with the same header and the bytes asked for, or with a size of 0 where there are none (the protocol's
// way to say that it failed).
func (b *Backend) getConfig(p []byte) []byte {
	if len(p) < configHeader {
		return make([]byte, configHeader)
	}
	off, size := binary.NativeEndian.Uint32(p), binary.NativeEndian.Uint32(p[4:])
	if size > maxConfig || off > maxConfig || int(off)+int(size) > len(b.config) {
		return make([]byte, configHeader)
	}
	reply := append([]byte(nil), p[:configHeader]...)
	return append(reply, b.config[off:off+size]...)
}

func (b *Backend) setMemory(m *Message) error {
	mem, err := mapMemory(m)
	if err != nil {
		return err
	}
	old := b.mem
	b.mem = mem
	for _, q := range b.queues {
		running, used := q.Running(), q.nextUsed
		// A ring that does not run may have addresses from before: it gets new ones with its next start.
		if perr := q.place(mem); perr != nil && running && err == nil {
			err = perr
		}
		if running { // the same ring, mapped at another place of ours
			q.nextUsed, q.signalled = used, used
		}
	}
	if old != nil {
		old.unmap()
	}
	return err
}

// queue is the queue that a message names in its first word.
func (b *Backend) queue(m *Message, size int) (int, *Queue, error) {
	if len(m.Payload) != size {
		return 0, nil, fmt.Errorf("%w: request %d with %d bytes, %d expected", ErrProtocol, m.Request, len(m.Payload), size)
	}
	i := binary.NativeEndian.Uint32(m.Payload)
	if m.Request == SetVringKick || m.Request == SetVringCall || m.Request == SetVringErr {
		i &= vringIndexMask
	}
	if uint64(i) >= uint64(len(b.queues)) {
		return 0, nil, fmt.Errorf("%w: request %d for queue %d of %d", ErrProtocol, m.Request, i, len(b.queues))
	}
	return int(i), b.queues[i], nil
}

func (b *Backend) setVringAddr(m *Message) error {
	_, q, err := b.queue(m, 40) // index, flags, and the addresses of descriptors, used, available and log
	if err != nil {
		return err
	}
	if flags := binary.NativeEndian.Uint32(m.Payload[4:]); flags != 0 {
		return fmt.Errorf("%w: logging of a virtqueue is not supported", ErrProtocol)
	}
	q.descAddr = binary.NativeEndian.Uint64(m.Payload[8:])
	q.usedAddr = binary.NativeEndian.Uint64(m.Payload[16:])
	q.availAddr = binary.NativeEndian.Uint64(m.Payload[24:])
	q.haveAddr = true
	return q.place(b.mem)
}

func (b *Backend) vringState(m *Message) ([]byte, error) {
	i, q, err := b.queue(m, 8)
	if err != nil {
		return nil, err
	}
	v := binary.NativeEndian.Uint32(m.Payload[4:])
	switch m.Request {
	case SetVringNum:
		if v == 0 || v > MaxQueueSize || v&(v-1) != 0 {
			return nil, fmt.Errorf("%w: a ring of %d descriptors", ErrProtocol, v)
		}
		q.size = uint16(v)
		_ = q.place(b.mem) // may fail with addresses from before: those for this size follow
	case SetVringBase:
		if v > 0xffff {
			return nil, fmt.Errorf("%w: a ring's index of %d", ErrProtocol, v)
		}
		q.nextAvail = uint16(v)
	case SetVringEnable:
		q.enabled = v != 0
	case GetVringBase:
		b.dropKick(i)
		reply := append([]byte(nil), m.Payload[:4]...)
		return binary.NativeEndian.AppendUint32(reply, uint32(q.nextAvail)), nil
	}
	return nil, nil
}

func (b *Backend) setVringFD(m *Message) error {
	i, q, err := b.queue(m, 8)
	if err != nil {
		return err
	}
	fd := -1
	if binary.NativeEndian.Uint64(m.Payload)&vringNoDescriptor == 0 {
		if fd, err = m.takeFD(); err != nil {
			return err
		}
		if err := unix.SetNonblock(fd, true); err != nil {
			_ = unix.Close(fd)
			return fmt.Errorf("set a virtqueue's descriptor to non-blocking: %w", err)
		}
	}
	switch m.Request {
	case SetVringCall:
		setFD(&q.call, fd)
	case SetVringErr:
		setFD(&q.err, fd)
	default:
		return b.setKick(i, q, fd)
	}
	return nil
}

func (b *Backend) setKick(i int, q *Queue, fd int) error {
	if fd < 0 {
		return fmt.Errorf("%w: a virtqueue without notifications would have to be polled", ErrProtocol)
	}
	b.dropKick(i)
	if err := b.watcher.Watch(i, fd); err != nil {
		_ = unix.Close(fd)
		return fmt.Errorf("wait for a virtqueue's notifications: %w", err)
	}
	q.kick = fd
	if b.acked&featureProtocol == 0 {
		q.enabled = true // without protocol features a ring is enabled from its start
	}
	return nil
}

// dropKick ends a ring's use until it gets a new descriptor for notifications.
func (b *Backend) dropKick(i int) {
	if q := b.queues[i]; q.kick >= 0 {
		b.watcher.Unwatch(i, q.kick)
		setFD(&q.kick, -1)
	}
}

func setFD(p *int, fd int) {
	if *p >= 0 {
		_ = unix.Close(*p) // a descriptor that was received: nothing to do about an error
	}
	*p = fd
}
