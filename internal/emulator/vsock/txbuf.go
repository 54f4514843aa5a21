package vsock

import (
	"errors"

	"golang.org/x/sys/unix"
)

// txBufSize is how much of a guest's data is held for a host program that does not read; also the credit that the guest has.
// Firecracker v1.16, vsock/csm/mod.rs: CONN_TX_BUF_SIZE.
const txBufSize = 64 << 10

// txBuf is a ring of txBufSize bytes, allocated when first used. head and tail only grow and wrap as 32-bit numbers.
type txBuf struct {
	data       []byte
	head, tail uint32
}

func (t *txBuf) len() int { return int(t.head - t.tail) }

// push adds all of the pieces, n bytes together, or returns false because there is no room for them.
func (t *txBuf) push(segs [][]byte, n int) bool {
	if t.len()+n > txBufSize {
		return false
	}
	if t.data == nil && n > 0 {
		t.data = make([]byte, txBufSize)
	}
	for _, s := range segs {
		for len(s) > 0 {
			c := copy(t.data[t.head%txBufSize:], s)
			t.head += uint32(c)
			s = s[c:]
		}
	}
	return true
}

// flush writes what it can to a socket and returns how much that was. unix.EAGAIN means that the socket takes no more now.
func (t *txBuf) flush(fd int, io *iovecs) (int, error) {
	total := 0
	for t.len() > 0 {
		from := t.tail % txBufSize
		end := min(int(from)+t.len(), txBufSize)
		io.reset()
		io.add(t.data[from:end])
		n, err := io.send(fd)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return total, err
		}
		t.tail += uint32(n)
		total += n
	}
	return total, nil
}
