package tapguest

import (
	"os"
	"sync"
	"sync/atomic"
)

const (
	// headerSize is of virtio_net_hdr_v1: 12 bytes (virtio 1.2, section 5.1.6). Its first is flags, its second gso_type.
	headerSize = 12
	// needsChecksum is VIRTIO_NET_HDR_F_NEEDS_CSUM: whoever takes the frame for good computes the checksum.
	needsChecksum = 1
	// maxFrame is the longest IP packet with an Ethernet header and a VLAN tag.
	maxFrame = 65535 + 14 + 4
)

// Counters count the frames of one direction.
type Counters struct {
	// Frames are all of them, Partial those whose checksum is still to be made, Segmented those that stand for several segments.
	Frames, Partial, Segmented atomic.Int64
	// Largest is the length of the largest frame in bytes, without the virtio-net header.
	Largest atomic.Int64
}

func (c *Counters) add(frame []byte) {
	c.Frames.Add(1)
	if frame[0]&needsChecksum != 0 {
		c.Partial.Add(1)
	}
	if frame[1] != 0 {
		c.Segmented.Add(1)
	}
	// One pump alone writes it.
	if n := int64(len(frame) - headerSize); n > c.Largest.Load() {
		c.Largest.Store(n)
	}
}

// pump moves frames with their headers until one of the two is closed. Each begins when gate is free.
func pump(from, to *os.File, c *Counters, gate *sync.Mutex) {
	b := make([]byte, headerSize+maxFrame)
	for {
		gate.Lock()
		gate.Unlock() //nolint:staticcheck // SA2001: it is held by who stops the pump
		n, err := from.Read(b)
		if err != nil {
			return
		}
		if n < headerSize {
			continue
		}
		c.add(b[:n])
		// One that the other side refuses is lost, as on a wire.
		_, _ = to.Write(b[:n])
	}
}
