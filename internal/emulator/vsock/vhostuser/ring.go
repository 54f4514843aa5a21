package vhostuser

import (
	"sync/atomic"
	"unsafe"
)

// Ring memory is shared with the guest's processors. Its 16-bit fields are read and written through the aligned 32-bit word
// that holds them, because sync/atomic has no 16-bit operations; virtio's rings are little-endian, and so are the hosts
// that this program runs on (amd64, arm64).

// word is the aligned 32-bit word that holds the byte at off, and the number of bits below it. Memory mappings start at page
// boundaries, so the word lies within the mapping.
func word(b []byte, off int) (*uint32, uint) {
	p := unsafe.Pointer(&b[off])
	return (*uint32)(unsafe.Pointer(uintptr(p) &^ 3)), uint(uintptr(p)&3) * 8
}

// load16 reads the 16-bit field at an even offset.
func load16(b []byte, off int) uint16 {
	p, shift := word(b, off)
	return uint16(atomic.LoadUint32(p) >> shift)
}

// store16 writes the 16-bit field at an even offset, ordered before every later atomic read. The other half of the word may
// be the guest's; where the guest writes it over and over, the loop gives up its exactness rather than its end.
func store16(b []byte, off int, v uint16) {
	p, shift := word(b, off)
	for range 100 {
		old := atomic.LoadUint32(p)
		if atomic.CompareAndSwapUint32(p, old, old&^(0xffff<<shift)|uint32(v)<<shift) {
			return
		}
	}
	atomic.StoreUint32(p, uint32(v)<<shift)
}

// store32 writes an aligned 32-bit word, ordered after everything written before it and before every later atomic read.
func store32(b []byte, off int, v uint32) {
	atomic.StoreUint32((*uint32)(unsafe.Pointer(&b[off])), v)
}

// load64 reads an aligned 64-bit word once.
func load64(b []byte, off int) uint64 {
	return atomic.LoadUint64((*uint64)(unsafe.Pointer(&b[off])))
}

// aligned says whether b starts at a multiple of n, a power of two.
func aligned(b []byte, n uintptr) bool {
	return uintptr(unsafe.Pointer(&b[0]))&(n-1) == 0
}
