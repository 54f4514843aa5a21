package vsock

import (
	"encoding/binary"
	"os"
	"sync/atomic"
	"unsafe"
)

// ring is the driver's side of a virtqueue. Chain i uses descriptors 2i and 2i+1.
type ring struct {
	d                      *driver
	index                  int
	desc, avail, used      []byte
	descOff, availOff      int
	usedOff                int
	availIdx, lastUsed     uint16
	kick, call             *os.File
	bufs                   [][]byte
	kickEvent, callEventfd int
}

func (d *driver) newRing(index, buf int) *ring {
	n := d.layout.size
	r := &ring{d: d, index: index}
	r.descOff, r.availOff, r.usedOff = d.alloc(16*n), d.alloc(6+2*n), d.alloc(6+8*n)
	r.desc, r.avail, r.used = d.mem[r.descOff:][:16*n], d.mem[r.availOff:][:6+2*n], d.mem[r.usedOff:][:6+8*n]
	for range n / 2 {
		off := d.alloc(buf)
		r.bufs = append(r.bufs, d.mem[off:off+buf])
	}
	r.kick, r.kickEvent = d.eventfd()
	r.call, r.callEventfd = d.eventfd()
	return r
}

func field16(b []byte, off int) *uint32 { return (*uint32)(unsafe.Pointer(&b[off&^3])) }

func get16(b []byte, off int) uint16 {
	return uint16(atomic.LoadUint32(field16(b, off)) >> (8 * (off & 2)))
}

// put16 writes a field of which the driver owns the whole word, or the word's other half is not in use.
func put16(b []byte, off int, v uint16) {
	p, shift := field16(b, off), 8*(off&2)
	for {
		old := atomic.LoadUint32(p)
		if atomic.CompareAndSwapUint32(p, old, old&^(0xffff<<shift)|uint32(v)<<shift) {
			return
		}
	}
}

func (r *ring) setDesc(i, off, size int, flags, next uint16) {
	b := r.desc[16*i:]
	binary.LittleEndian.PutUint64(b, guestBase+uint64(off))
	binary.LittleEndian.PutUint32(b[8:], uint32(size))
	binary.LittleEndian.PutUint16(b[12:], flags)
	binary.LittleEndian.PutUint16(b[14:], next)
}

// post makes buffer i available with the first n bytes of it.
func (r *ring) post(i, n int, write bool) {
	off := r.offset(i)
	var flags uint16
	if write {
		flags = 2
	}
	if r.d.layout.oneDesc || n == packetHeaderSize {
		r.setDesc(2*i, off, n, flags, 0)
	} else {
		r.setDesc(2*i, off, packetHeaderSize, flags|1, uint16(2*i+1))
		r.setDesc(2*i+1, off+packetHeaderSize, n-packetHeaderSize, flags, 0)
	}
	r.publish(uint16(2 * i))
}

// publish makes the chain at a descriptor available, and notifies the device where it wants that.
func (r *ring) publish(head uint16) {
	binary.LittleEndian.PutUint16(r.avail[4+2*(int(r.availIdx)%r.d.layout.size):], head)
	r.availIdx++
	put16(r.avail, 2, r.availIdx)
	if r.d.layout.eventIdx {
		if event := get16(r.used, 4+8*r.d.layout.size); r.availIdx-event-1 >= 1 {
			return
		}
	}
	signalFile(r.kick)
}

// next returns the next used buffer, or waits for a notification and returns false.
func (r *ring) next() (id, n int, ok bool) {
	if get16(r.used, 2) == r.lastUsed {
		if r.d.layout.eventIdx {
			put16(r.avail, 4+2*r.d.layout.size, r.lastUsed)
		}
		if get16(r.used, 2) == r.lastUsed {
			_, _ = r.call.Read(make([]byte, 8))
			return 0, 0, false
		}
	}
	e := r.used[4+8*(int(r.lastUsed)%r.d.layout.size):]
	r.lastUsed++
	return int(binary.LittleEndian.Uint32(e)), int(binary.LittleEndian.Uint32(e[4:])), true
}

// offset is where buffer i lies in the guest's memory.
func (r *ring) offset(i int) int {
	return int(uintptr(unsafe.Pointer(&r.bufs[i][0])) - uintptr(unsafe.Pointer(&r.d.mem[0])))
}
