package vhostuser

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// region is a piece of the guest's memory: where the guest sees it, where the front-end sees it, and where we do.
type region struct {
	guest, user uint64
	data        []byte // the region itself
	mapping     []byte // what mmap returned: the region and what lies before it in its file
}

// memory is the guest's memory. Its zero value holds none.
type memory struct{ regions []region }

const regionSize = 32 // guest address, size, front-end address, offset in the file: four 64-bit words

// mapMemory maps the regions of a SET_MEM_TABLE message. The descriptors stay the message's.
func mapMemory(m *Message) (*memory, error) {
	if len(m.Payload) < 8 {
		return nil, fmt.Errorf("%w: a memory table of %d bytes", ErrProtocol, len(m.Payload))
	}
	n := int(binary.NativeEndian.Uint32(m.Payload))
	if n == 0 || n > maxFDs || n != len(m.FDs) || len(m.Payload) != 8+n*regionSize {
		return nil, fmt.Errorf("%w: a memory table of %d regions, %d bytes and %d descriptors",
			ErrProtocol, n, len(m.Payload), len(m.FDs))
	}
	mem := &memory{}
	for i := range n {
		p := m.Payload[8+i*regionSize:]
		err := mem.add(m.FDs[i], binary.NativeEndian.Uint64(p), binary.NativeEndian.Uint64(p[8:]),
			binary.NativeEndian.Uint64(p[16:]), binary.NativeEndian.Uint64(p[24:]))
		if err != nil {
			mem.unmap()
			return nil, fmt.Errorf("map region %d of the guest's memory: %w", i, err)
		}
	}
	return mem, nil
}

func (mem *memory) add(fd int, guest, size, user, offset uint64) error {
	const limit = 1 << 46 // beyond any guest's memory, and small enough that no sum below overflows
	if size == 0 || size > limit || offset > limit || guest+size < guest || user+size < user {
		return fmt.Errorf("%w: guest address %#x, size %#x, front-end address %#x, offset %#x",
			ErrProtocol, guest, size, user, offset)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	// Memory beyond the end of the file would raise SIGBUS when touched.
	if uint64(st.Size) < offset+size {
		return fmt.Errorf("%w: a region ends at %#x, its file at %#x", ErrProtocol, offset+size, st.Size)
	}
	// Mapped from the file's start: offset need not be a multiple of the file's page size (huge pages).
	b, err := unix.Mmap(fd, 0, int(offset+size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("mmap: %w", err)
	}
	mem.regions = append(mem.regions, region{guest: guest, user: user, data: b[offset:], mapping: b})
	return nil
}

func (mem *memory) unmap() {
	for _, r := range mem.regions {
		_ = unix.Munmap(r.mapping) // fails only for an address that mmap did not return
	}
	mem.regions = nil
}

// guestBytes is the memory at a guest's address: the whole range, or as much of it as its region holds, nil where there is
// none.
func (mem *memory) guestBytes(addr uint64, size uint32) []byte {
	for i := range mem.regions {
		r := &mem.regions[i]
		if off := addr - r.guest; addr >= r.guest && off < uint64(len(r.data)) {
			return r.data[off:min(off+uint64(size), uint64(len(r.data)))]
		}
	}
	return nil
}

// userBytes is the memory at an address of the front-end's, nil unless one region holds the whole range.
func (mem *memory) userBytes(addr uint64, size int) []byte {
	for i := range mem.regions {
		r := &mem.regions[i]
		off := addr - r.user
		if addr >= r.user && off < uint64(len(r.data)) && uint64(size) <= uint64(len(r.data))-off {
			return r.data[off : off+uint64(size)]
		}
	}
	return nil
}
