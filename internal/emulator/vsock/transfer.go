package vsock

import (
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/emulator/vsock/vhostuser"
)

const (
	// maxBatchChains and maxBatch bound what one connection moves to the guest at its turn with one system call: Linux offers
	// buffers of 4 KiB, and a Unix socket holds some 200 KiB.
	maxBatchChains = 32
	maxBatch       = 64 << 10
	// maxIovecs is the system's limit for one call (IOV_MAX).
	maxIovecs = 1024
	// maxFaultLogs bounds what a guest can make the log grow by.
	maxFaultLogs = 16
)

// Watch implements vhostuser.Watcher.
func (d *Device) Watch(i, fd int) error {
	tok, err := d.poll.watch(fd, unix.EPOLLIN, func(uint32) error {
		// Only ends the wait: transfer looks at both rings.
		if err := d.vhost.Queue(i).DrainKick(); err != nil {
			d.fail(err)
		}
		return nil
	})
	d.kickTok[i] = tok
	return err
}

// Unwatch implements vhostuser.Watcher.
func (d *Device) Unwatch(i, fd int) { d.poll.unwatch(fd, d.kickTok[i]) }

// onMessage takes QEMU's messages. An error ends Serve.
func (d *Device) onMessage(uint32) error {
	for {
		m, err := d.vhostConn.Read()
		if errors.Is(err, io.EOF) {
			d.gone = true
			return nil
		}
		if err != nil {
			return err
		}
		if m == nil {
			break
		}
		if err := d.vhost.Handle(m); err != nil {
			return err
		}
	}
	d.active = d.broken == nil && d.vhost.Queue(rxQueue).Running() && d.vhost.Queue(txQueue).Running()
	return d.mux.setActive(d.active)
}

// fail stops the device, not the process: QEMU and the rest of the guest go on.
func (d *Device) fail(err error) {
	if d.broken != nil {
		return
	}
	d.log.Error("vsock device stopped", "error", err)
	d.broken, d.active = fmt.Errorf("vsock device stopped: %w", err), false
	d.mux.close()
	errs := []error{d.host.close()}
	for i := range numQueues {
		errs = append(errs, d.vhost.Queue(i).Fail())
	}
	if err := errors.Join(errs...); err != nil {
		d.log.Warn("vsock device stopped", "error", err)
	}
}

// fault notes that the guest has given us a packet or a buffer that is thrown away (Firecracker v1.16, vsock/device.rs: it goes
// back to the guest with a length of 0).
func (d *Device) fault(err error) {
	if d.faults++; d.faults <= maxFaultLogs {
		d.log.Warn("vsock drops a malformed packet of the guest's", "error", err, "further ones are logged", d.faults < maxFaultLogs)
	}
}

// busy says that there is work to do without waiting.
func (d *Device) busy() bool { return d.active && d.more }

// transfer moves what there is in both directions, but not without end, so that QEMU's messages and the sockets get their turn.
func (d *Device) transfer() error {
	if !d.active {
		return nil
	}
	d.more = false
	if err := d.fromGuest(); err != nil {
		return err
	}
	return d.toGuest()
}

// fromGuest takes the packets that the guest has sent.
func (d *Device) fromGuest() error {
	q, c := d.vhost.Queue(txQueue), &d.chains[0]
	for n := 0; ; n++ {
		if n == q.Size() {
			d.more = true
			break
		}
		err := q.Pop(c, false)
		if errors.Is(err, vhostuser.ErrEmpty) {
			if q.WantKick() {
				break
			}
			continue
		}
		var h header
		if err == nil {
			err = parseTX(c, &h)
		}
		switch {
		case err == nil:
			d.mux.fromGuest(&h, c)
		case errors.Is(err, vhostuser.ErrRing):
			return fmt.Errorf("transmit queue: %w", err)
		default:
			d.fault(err)
		}
		q.AddUsed(c.Head, 0)
	}
	return q.Publish()
}

// parseTX reads a packet's header and checks its length against the limit and the chain (vsock/packet.rs: parse).
func parseTX(c *vhostuser.Chain, h *header) error {
	var b [packetHeaderSize]byte
	if c.Copy(b[:], false) < len(b) {
		return fmt.Errorf("a packet of %d bytes has no room for its header", c.Len)
	}
	h.decode(&b)
	if h.len > maxPayload || uint64(h.len) > c.Len-packetHeaderSize {
		return fmt.Errorf("a packet of %d bytes claims a payload of %d", c.Len, h.len)
	}
	return nil
}

// toGuest fills the guest's buffers with what the connections have for it.
func (d *Device) toGuest() error {
	q, m := d.vhost.Queue(rxQueue), d.mux
	for n := 0; m.hasRX(); n++ {
		if n >= q.Size() {
			d.more = true
			break
		}
		c := &d.chains[0]
		err := d.popRX(q, c)
		if errors.Is(err, vhostuser.ErrEmpty) {
			if q.WantKick() {
				break
			}
			continue
		}
		if errors.Is(err, vhostuser.ErrRing) {
			return fmt.Errorf("receive queue: %w", err)
		}
		if err != nil {
			d.fault(err)
			q.AddUsed(c.Head, 0)
			continue
		}
		var h header
		conn, kind := m.next(&h)
		switch kind {
		case nothing:
			q.Undo(1)
		case control:
			d.put(q, c, &h)
			if conn != nil && h.op == opRst {
				m.remove(conn)
			}
		case data:
			if err := d.receive(q, conn, &h); err != nil {
				return err
			}
		}
		if conn != nil {
			m.update(conn)
		}
	}
	return q.Publish()
}

// popRX takes a buffer of the guest's for a packet.
func (d *Device) popRX(q *vhostuser.Queue, c *vhostuser.Chain) error {
	err := q.Pop(c, true)
	if err == nil && c.Len <= packetHeaderSize {
		err = fmt.Errorf("a buffer of %d bytes has no room for a packet", c.Len)
	}
	return err
}

// put hands a packet to the guest, whose payload is in its place already.
func (d *Device) put(q *vhostuser.Queue, c *vhostuser.Chain, h *header) {
	var b [packetHeaderSize]byte
	h.encode(&b)
	c.Copy(b[:], true)
	q.AddUsed(c.Head, packetHeaderSize+h.len)
}

// receive reads from a connection's socket straight into the guest's buffers, of which the first is in d.chains[0].
func (d *Device) receive(q *vhostuser.Queue, c *conn, h *header) error {
	v := &d.mux.io
	v.reset()
	limit := int(min(c.credit(), maxBatch))
	popped := 0
	for {
		ch := &d.chains[popped]
		popped++
		v.addChain(ch, packetHeaderSize, limit-v.len)
		if v.len == limit || popped == maxBatchChains {
			break
		}
		err := d.popRX(q, &d.chains[popped])
		if errors.Is(err, vhostuser.ErrEmpty) {
			break
		}
		if err != nil || len(v.pieces)+len(d.chains[popped].Segs) > maxIovecs {
			// Left for its own turn, where it is first: an error of the ring did not take anything.
			if !errors.Is(err, vhostuser.ErrRing) {
				q.Undo(1)
			}
			break
		}
	}
	n, err := v.receive(c.fd)
	c.pending &^= pendRW
	switch {
	case errors.Is(err, unix.EINTR):
		q.Undo(popped)
	case errors.Is(err, unix.EAGAIN):
		c.readable = false
		q.Undo(popped)
	case err != nil:
		// For example a program that has closed without reading all that the guest had sent: ECONNRESET.
		h.op = opRst
		q.Undo(popped - 1)
		d.put(q, &d.chains[0], h)
		d.mux.remove(c)
	case n == 0:
		c.hostClosed(h, d.mux.now)
		q.Undo(popped - 1)
		d.put(q, &d.chains[0], h)
	default:
		used := 0
		for n > 0 {
			ch := &d.chains[used]
			h.len = uint32(min(uint64(n), ch.Len-packetHeaderSize))
			n -= int(h.len)
			c.sent(h.len)
			d.put(q, ch, h)
			used++
		}
		q.Undo(popped - used)
	}
	return nil
}
