package layer

import (
	"io"
	"sync"
)

const (
	// ahead is how many buffers a stage may be in front of the next; with bufferSize it bounds the memory of a Pipe to 1 MiB.
	ahead      = 8
	bufferSize = 128 << 10
)

// Pipe reads r on a goroutine of its own, ahead of the reader that it returns. Close stops it and waits until r is no longer
// in use; it does not close r.
func Pipe(r io.Reader) io.ReadCloser {
	p := &pipe{full: make(chan block, ahead), free: make(chan []byte, ahead), stop: make(chan struct{}), done: make(chan struct{})}
	for range ahead {
		p.free <- nil
	}
	go p.fill(r)
	return p
}

type block struct {
	data []byte
	err  error
}

type pipe struct {
	full chan block
	free chan []byte // buffers to fill; nil stands for one that is not yet made
	stop chan struct{}
	done chan struct{}
	once sync.Once

	cur  block  // what the reader is at
	rest []byte // of cur.data
}

func (p *pipe) fill(r io.Reader) {
	defer close(p.done)
	for {
		var buf []byte
		select {
		case buf = <-p.free:
		case <-p.stop:
			return
		}
		if buf == nil {
			buf = make([]byte, bufferSize)
		}
		n, err := 0, error(nil)
		for n < len(buf) && err == nil {
			var m int
			m, err = r.Read(buf[n:])
			n += m
		}
		select {
		case p.full <- block{buf[:n], err}:
		case <-p.stop:
			return
		}
		if err != nil {
			return
		}
	}
}

// Read returns what was read ahead, then the error of the source.
func (p *pipe) Read(b []byte) (int, error) {
	for len(p.rest) == 0 {
		if p.cur.err != nil {
			return 0, p.cur.err
		}
		if p.cur.data != nil {
			p.free <- p.cur.data[:cap(p.cur.data)]
			p.cur.data = nil
		}
		select {
		case p.cur = <-p.full:
			p.rest = p.cur.data
		case <-p.stop:
			return 0, io.ErrClosedPipe
		}
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

// Close stops the goroutine that reads ahead. A Read of the source that blocks is waited for.
func (p *pipe) Close() error {
	p.once.Do(func() { close(p.stop) })
	<-p.done
	return nil
}
