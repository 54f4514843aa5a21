package terminal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/moby/term"
)

// DefaultDetachKeys is Docker's sequence.
const DefaultDetachKeys = "ctrl-p,ctrl-q"

// ErrDetached is a read's error once the detach keys were pressed; its text is Docker's.
var ErrDetached = errors.New("read escape sequence")

// ParseDetachKeys turns Docker's notation ("ctrl-p,ctrl-q", "a,ctrl-]") into the bytes that a terminal sends. An empty one is none.
func ParseDetachKeys(keys string) ([]byte, error) {
	if keys == "" {
		return nil, nil
	}
	b, err := term.ToBytes(keys)
	if err != nil {
		return nil, fmt.Errorf("--detach-keys %q: %w", keys, err)
	}
	return b, nil
}

// DetachReader passes on what it reads until the detach keys come. The beginning of the sequence is held back until it is clear that
// the rest does not follow.
type DetachReader struct {
	r    io.ReadCloser
	keys []byte
	// held is how many bytes of keys have come; rest is what a read had no room for.
	held int
	rest []byte
	err  error

	once     sync.Once
	detached chan struct{}
}

// NewDetachReader reads r. Without keys it passes everything on.
func NewDetachReader(r io.ReadCloser, keys []byte) *DetachReader {
	return &DetachReader{r: r, keys: keys, detached: make(chan struct{})}
}

// Detached is closed when the keys were pressed.
func (d *DetachReader) Detached() <-chan struct{} { return d.detached }

// Close closes what is read.
func (d *DetachReader) Close() error { return d.r.Close() }

// Read returns ErrDetached after what came before the keys. What follows them is not read.
func (d *DetachReader) Read(p []byte) (int, error) {
	if len(d.keys) == 0 {
		return d.r.Read(p)
	}
	if len(p) == 0 {
		return 0, nil
	}
	for len(d.rest) == 0 {
		if d.err != nil {
			if errors.Is(d.err, ErrDetached) {
				d.once.Do(func() { close(d.detached) })
			}
			return 0, d.err
		}
		n, err := d.r.Read(p)
		d.rest, d.err = d.filter(p[:n]), err
		if d.held == len(d.keys) {
			d.err = ErrDetached
		} else if err != nil {
			d.rest, d.held = append(d.rest, d.keys[:d.held]...), 0 // it was not the sequence after all
		}
	}
	n := copy(p, d.rest)
	d.rest = d.rest[n:]
	return n, nil
}

// filter returns what is not, or no longer, a part of the sequence.
func (d *DetachReader) filter(b []byte) (out []byte) {
	for _, c := range b {
		// What was held back and is no beginning of the sequence any more is passed on.
		for d.held > 0 && c != d.keys[d.held] {
			n := overlap(d.keys, d.keys[1:d.held])
			out = append(out, d.keys[:d.held-n]...)
			d.held = n
		}
		if c != d.keys[d.held] {
			out = append(out, c)
			continue
		}
		if d.held++; d.held == len(d.keys) {
			return out
		}
	}
	return out
}

// overlap is the length of the longest beginning of keys with which b ends.
func overlap(keys, b []byte) int {
	for n := len(b); n > 0; n-- {
		if bytes.HasSuffix(b, keys[:n]) {
			return n
		}
	}
	return 0
}
