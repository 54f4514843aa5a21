package vhostuser

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

var (
	// ErrEmpty says that the driver has made no further chain available.
	ErrEmpty = errors.New("no descriptor chain available")
	// ErrChain says that one chain is malformed; it is to be returned with AddUsed(chain.Head, 0).
	ErrChain = errors.New("malformed descriptor chain")
	// ErrRing says that the ring itself is broken and the device must not use it any more.
	ErrRing = errors.New("broken virtqueue")
)

// MaxQueueSize bounds a ring (VIRTQUEUE_MAX_SIZE of QEMU), and with it the descriptors of a chain.
const MaxQueueSize = 1024

// Descriptor flags (virtio 1.1, 2.6.5).
const (
	descNext     = 1
	descWrite    = 2
	descIndirect = 4
)

const (
	descSize    = 16
	ringHeader  = 4 // flags, idx
	availNoIntr = 1 // VIRTQ_AVAIL_F_NO_INTERRUPT
)

// Chain is one buffer of the driver's: a list of pieces of the guest's memory. It is reused: Pop overwrites it.
type Chain struct {
	Head uint16
	Segs [][]byte
	Len  uint64 // the sum of the pieces' lengths, in bytes
}

// Copy copies the chain's first bytes to b, or with write set b to the chain, and returns how many it copied.
func (c *Chain) Copy(b []byte, write bool) int {
	n := 0
	for _, s := range c.Segs {
		if n == len(b) {
			break
		}
		if write {
			n += copy(s, b[n:])
		} else {
			n += copy(b[n:], s)
		}
	}
	return n
}

// Queue is the device's side of a split virtqueue.
type Queue struct {
	size              uint16
	descAddr          uint64 // front-end addresses, as SET_VRING_ADDR gave them
	availAddr         uint64
	usedAddr          uint64
	haveAddr          bool
	desc, avail, used []byte // mapped; nil while the addresses or the memory are not known
	mem               *memory

	nextAvail, nextUsed uint16
	signalled           uint16 // nextUsed at the last look at whether to notify
	eventIdx            bool
	enabled             bool
	kick, call, err     int // eventfds, -1 where there is none
}

func newQueue() *Queue { return &Queue{kick: -1, call: -1, err: -1} }

// Running says whether the ring may be used: mapped, enabled, and with a descriptor that tells of the driver's notifications.
func (q *Queue) Running() bool { return q.desc != nil && q.enabled && q.kick >= 0 }

// Size is the number of descriptors, which bounds the chains that are available at a time.
func (q *Queue) Size() int { return int(q.size) }

// place finds the three parts of the ring in the memory that mem describes, nil for none.
func (q *Queue) place(mem *memory) error {
	q.desc, q.avail, q.used, q.mem = nil, nil, nil, nil
	if mem == nil || !q.haveAddr {
		return nil
	}
	n := int(q.size)
	desc := mem.userBytes(q.descAddr, descSize*n)
	avail := mem.userBytes(q.availAddr, ringHeader+2*n+2) // flags, idx, ring, used_event
	used := mem.userBytes(q.usedAddr, ringHeader+8*n+2)   // flags, idx, ring, avail_event
	if n == 0 || desc == nil || avail == nil || used == nil {
		return fmt.Errorf("%w: a ring of %d descriptors at %#x, %#x, %#x lies outside of the guest's memory",
			ErrProtocol, n, q.descAddr, q.availAddr, q.usedAddr)
	}
	// virtio 1.1, 2.6: alignment 16, 2, 4.
	if !aligned(desc, 16) || !aligned(avail, 2) || !aligned(used, 4) {
		return fmt.Errorf("%w: a ring at %#x, %#x, %#x is not aligned", ErrProtocol, q.descAddr, q.availAddr, q.usedAddr)
	}
	q.desc, q.avail, q.used, q.mem = desc, avail, used, mem
	q.nextUsed = load16(used, 2)
	q.signalled = q.nextUsed
	return nil
}

// Pop takes the next chain that the driver has made available. All its pieces must be for the device to write where write is
// set, and for it to read where not. The errors are ErrEmpty, ErrChain and ErrRing.
func (q *Queue) Pop(c *Chain, write bool) error {
	// The number of available chains can't exceed the ring: Firecracker v1.16, virtio/queue.rs: pop, ends the VMM there.
	n := load16(q.avail, 2) - q.nextAvail
	if n == 0 {
		return ErrEmpty
	}
	if n > q.size {
		return fmt.Errorf("%w: %d chains available in a ring of %d", ErrRing, n, q.size)
	}
	head := load16(q.avail, ringHeader+2*int(q.nextAvail%q.size))
	if head >= q.size {
		return fmt.Errorf("%w: a chain starts at descriptor %d of %d", ErrRing, head, q.size)
	}
	q.nextAvail++
	c.Head, c.Segs, c.Len = head, c.Segs[:0], 0
	return q.walk(c, write)
}

func (q *Queue) walk(c *Chain, write bool) error {
	i := c.Head
	for range q.size { // a longer chain has a loop
		addr, rest := load64(q.desc, descSize*int(i)), load64(q.desc, descSize*int(i)+8)
		size, flags, next := uint32(rest), uint16(rest>>32), uint16(rest>>48)
		if flags&descIndirect != 0 {
			return fmt.Errorf("%w: an indirect descriptor, which was not negotiated", ErrChain)
		}
		if (flags&descWrite != 0) != write {
			return fmt.Errorf("%w: a descriptor for the wrong direction", ErrChain)
		}
		for size > 0 {
			b := q.mem.guestBytes(addr, size)
			if len(b) == 0 || len(c.Segs) == MaxQueueSize {
				return fmt.Errorf("%w: %d bytes at %#x are outside of the guest's memory", ErrChain, size, addr)
			}
			c.Segs = append(c.Segs, b)
			c.Len += uint64(len(b))
			addr += uint64(len(b))
			size -= uint32(len(b))
		}
		if flags&descNext == 0 {
			return nil
		}
		if next >= q.size {
			return fmt.Errorf("%w: descriptor %d follows in a ring of %d", ErrChain, next, q.size)
		}
		i = next
	}
	return fmt.Errorf("%w: it has a loop", ErrChain)
}

// Undo gives back the last n chains that Pop returned and AddUsed has not.
func (q *Queue) Undo(n int) { q.nextAvail -= uint16(n) }

// AddUsed returns a chain to the driver, with the number of bytes written to it. The driver sees it after Publish.
func (q *Queue) AddUsed(head uint16, written uint32) {
	off := ringHeader + 8*int(q.nextUsed%q.size)
	binary.LittleEndian.PutUint64(q.used[off:], uint64(written)<<32|uint64(head))
	q.nextUsed++
}

// Publish makes the chains that were added visible to the driver and notifies it, unless it asked for silence.
func (q *Queue) Publish() error {
	if q.nextUsed == q.signalled {
		return nil
	}
	store32(q.used, 0, uint32(q.nextUsed)<<16) // flags 0 and idx
	old := q.signalled
	q.signalled = q.nextUsed
	if q.eventIdx {
		// virtio 1.1, 2.6.7.2: notify when the index has passed used_event.
		event := load16(q.avail, ringHeader+2*int(q.size))
		if q.nextUsed-event-1 >= q.nextUsed-old {
			return nil
		}
	} else if load16(q.avail, 0)&availNoIntr != 0 {
		return nil
	}
	return signal(q.call)
}

// WantKick asks the driver for a notification when it makes the next chain available. It returns false when there is one
// already, which may then not be notified.
func (q *Queue) WantKick() bool {
	if q.eventIdx {
		store16(q.used, ringHeader+8*int(q.size), q.nextAvail)
	}
	return load16(q.avail, 2) == q.nextAvail
}

// DrainKick resets the driver's notification, to be called when its descriptor is readable.
func (q *Queue) DrainKick() error {
	var b [8]byte
	_, err := unix.Read(q.kick, b[:])
	if err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("read a virtqueue's notification: %w", err)
	}
	return nil
}

// Fail tells the front-end that the ring is broken, where it has given a descriptor for that.
func (q *Queue) Fail() error { return signal(q.err) }

// signal adds one to an eventfd; -1 stands for none. A counter that is full has been signalled already.
func signal(fd int) error {
	if fd < 0 {
		return nil
	}
	var b [8]byte
	binary.NativeEndian.PutUint64(b[:], 1)
	for {
		_, err := unix.Write(fd, b[:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil && !errors.Is(err, unix.EAGAIN) {
			return fmt.Errorf("notify: %w", err)
		}
		return nil
	}
}
