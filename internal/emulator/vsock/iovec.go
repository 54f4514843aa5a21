package vsock

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/emulator/vsock/vhostuser"
)

// iovecs is a list of pieces of memory for one system call, kept for the next call so that none is allocated on the way.
type iovecs struct {
	pieces [][]byte
	vec    []unix.Iovec
	len    int
}

func (v *iovecs) reset() { v.pieces, v.len = v.pieces[:0], 0 }

func (v *iovecs) add(b []byte) {
	if len(b) > 0 {
		v.pieces = append(v.pieces, b)
		v.len += len(b)
	}
}

// addChain adds at most n bytes of a chain from byte skip on.
func (v *iovecs) addChain(c *vhostuser.Chain, skip, n int) {
	for _, s := range c.Segs {
		if n == 0 {
			return
		}
		if skip >= len(s) {
			skip -= len(s)
			continue
		}
		s = s[skip:]
		skip = 0
		s = s[:min(len(s), n)]
		n -= len(s)
		v.add(s)
	}
}

// advance drops the first n bytes.
func (v *iovecs) advance(n int) {
	v.len -= n
	i := 0
	for n > 0 && n >= len(v.pieces[i]) {
		n -= len(v.pieces[i])
		i++
	}
	v.pieces = v.pieces[:copy(v.pieces, v.pieces[i:])] // moved, not resliced: the room is used again
	if n > 0 {
		v.pieces[0] = v.pieces[0][n:]
	}
}

func (v *iovecs) build() {
	v.vec = v.vec[:0]
	for _, b := range v.pieces {
		e := unix.Iovec{Base: &b[0]}
		e.SetLen(len(b))
		v.vec = append(v.vec, e)
	}
}

// receive reads from a socket into the pieces; 0 bytes is the end of the stream.
func (v *iovecs) receive(fd int) (int, error) {
	v.build()
	n, _, e := unix.Syscall(unix.SYS_READV, uintptr(fd), uintptr(unsafe.Pointer(&v.vec[0])), uintptr(len(v.vec)))
	runtime.KeepAlive(v)
	if e != 0 {
		return 0, e
	}
	return int(n), nil
}

// send writes the pieces to a socket, or as much of them as it takes. A peer that has gone is EPIPE and no signal.
func (v *iovecs) send(fd int) (int, error) {
	v.build()
	var m unix.Msghdr
	m.Iov = &v.vec[0]
	m.SetIovlen(len(v.vec))
	n, _, e := unix.Syscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(&m)), unix.MSG_NOSIGNAL)
	runtime.KeepAlive(v)
	if e != 0 {
		return 0, e
	}
	return int(n), nil
}
