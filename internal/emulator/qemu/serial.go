package qemu

import (
	"io"
	"time"
)

const (
	// serialQueue bounds the console output that waits for a slow reader, in chunks of serialChunk bytes. What comes
	// while it is full is dropped, as Firecracker drops it, so that no reader can stop the guest.
	serialQueue = 64
	serialChunk = 4096
	// serialPause lets output gather: QEMU writes one byte at a time, and waking up for each of them would cost the
	// guest a good part of a CPU.
	serialPause = 2 * time.Millisecond
)

// relay copies the guest's console from r to w until r ends, and returns when w has taken what was kept.
func relay(w io.Writer, r io.Reader) {
	chunks := make(chan []byte, serialQueue)
	written := make(chan struct{})
	go func() {
		defer close(written)
		for c := range chunks {
			if _, err := w.Write(c); err != nil {
				for range chunks { // nobody reads any more; the guest goes on
				}
				return
			}
		}
	}()
	for {
		buf := make([]byte, serialChunk)
		n, err := r.Read(buf)
		if n > 0 {
			select {
			case chunks <- buf[:n]:
			default:
			}
		}
		if err != nil {
			break
		}
		if n < serialChunk {
			time.Sleep(serialPause)
		}
	}
	close(chunks)
	<-written
}
