package vsock

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/test/serve"
)

// stack is a guest's AF_VSOCK on top of a driver: sockets with flow control, as Linux's are.
type stack struct {
	*world
	mu       sync.Mutex
	cond     *sync.Cond
	socks    map[connKey]*sock
	accept   func(*sock)
	lastPort uint32
}

const guestBuf = 256 << 10 // VIRTIO_VSOCK_DEFAULT_BUF_SIZE of Linux

// sock is a connected socket of the guest's.
type sock struct {
	s           *stack
	key         connKey
	established bool
	reset, shut bool // by the host
	in          []byte
	// Credit: bytes taken by the program and those that the host knows of; bytes sent, those that the host has taken, and its room.
	taken, told, sent, peerTaken, peerRoom uint32
}

// newStack starts a device and a guest whose programs get what the host opens by accept, nil for nothing.
func newStack(t testing.TB, l layout, accept func(*sock)) *stack {
	t.Helper()
	dev := newDevice(t)
	served := dev.serve(t)
	d := connectDriver(t, dev.cfg.BackendSocket, l)
	s := &stack{world: &world{driver: d, dev: dev, served: served, uds: dev.cfg.UDSPath}, accept: accept,
		socks: map[connKey]*sock{}}
	s.cond = sync.NewCond(&s.mu)
	d.deliver = s.take
	d.negotiate()
	d.start()
	return s
}

// take gets each packet of the host's. It never waits for anything but room in the ring, which the device always makes.
func (s *stack) take(p packet) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.cond.Broadcast()
	key := connKey{local: p.srcPort, peer: p.dstPort}
	c := s.socks[key]
	if c == nil {
		if p.op != opRequest || s.accept == nil {
			if p.op != opRst {
				s.op(opRst, key.peer, key.local)
			}
			return
		}
		c = &sock{s: s, key: key, established: true}
		s.socks[key] = c
		c.note(p)
		c.packet(opResponse, 0, nil)
		go s.accept(c)
		return
	}
	c.note(p)
	switch p.op {
	case opResponse:
		c.established = true
	case opRst:
		c.reset = true
		delete(s.socks, key)
	case opShutdown:
		c.shut = p.flags == shutdownReceive|shutdownSend
		if !c.shut {
			s.t.Errorf("a shutdown with flags %d", p.flags)
		}
	case opRW:
		if len(c.in)+len(p.payload) > guestBuf {
			s.t.Errorf("the device exceeds the credit by %d bytes", len(c.in)+len(p.payload)-guestBuf)
		}
		c.in = append(c.in, p.payload...)
	case opCreditRequest:
		c.packet(opCreditUpdate, 0, nil)
	}
}

func (c *sock) note(p packet) { c.peerRoom, c.peerTaken = p.bufAlloc, p.fwdCnt }

func (c *sock) packet(op uint16, flags uint32, payload []byte) {
	h := header{srcCID: testCID, dstCID: hostCID, srcPort: c.key.peer, dstPort: c.key.local, typ: typeStream, op: op, flags: flags,
		bufAlloc: guestBuf, fwdCnt: c.taken}
	c.told = c.taken
	c.s.transmit(h, payload)
}

func (s *stack) connect(port uint32) (*sock, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastPort++
	c := &sock{s: s, key: connKey{local: port, peer: s.lastPort}}
	s.socks[c.key] = c
	c.packet(opRequest, 0, nil)
	for !c.established && !c.reset {
		s.cond.Wait()
	}
	if c.reset {
		return nil, unix.ECONNRESET
	}
	return c, nil
}

func (c *sock) Read(b []byte) (int, error) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	for len(c.in) == 0 {
		if c.shut || c.reset {
			return 0, io.EOF
		}
		c.s.cond.Wait()
	}
	n := copy(b, c.in)
	c.in = c.in[n:]
	c.taken += uint32(n)
	// As Linux does: when the host must think that less than a packet's size is free.
	if !c.reset && guestBuf-(c.taken-c.told) < maxPayload {
		c.packet(opCreditUpdate, 0, nil)
	}
	return n, nil
}

func (c *sock) Write(b []byte) (int, error) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	done := 0
	for done < len(b) {
		if c.reset || c.shut {
			return done, unix.EPIPE
		}
		room := c.peerRoom - (c.sent - c.peerTaken)
		if room == 0 {
			c.s.cond.Wait()
			continue
		}
		n := min(int(room), maxPayload, len(b)-done)
		c.sent += uint32(n)
		c.packet(opRW, 0, b[done:done+n])
		done += n
	}
	return done, nil
}

func (c *sock) Close() error {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	if c.shut { // Linux answers a full shutdown with an RST
		if !c.reset {
			c.packet(opRst, 0, nil)
			delete(c.s.socks, c.key)
		}
		return nil
	}
	if !c.reset {
		c.packet(opShutdown, shutdownReceive|shutdownSend, nil)
	}
	return nil
}

// open connects a host's program to the guest.
func (s *stack) open(port uint32) (*net.UnixConn, error) {
	nc, err := net.Dial("unix", s.uds)
	if err != nil {
		return nil, err
	}
	c := nc.(*net.UnixConn)
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	var host uint32
	if _, err = fmt.Fprintf(c, "CONNECT %d\n", port); err == nil {
		b := make([]byte, len("OK 1073741824\n"))
		if _, err = io.ReadFull(c, b); err == nil {
			_, err = fmt.Sscanf(string(b), "OK %d\n", &host)
		}
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// exchange sends size bytes from a to b and as many back at the same time, and compares the sums.
func exchange(a, b io.ReadWriter, size int) error {
	errs := make(chan error)
	go func() { errs <- pump(a, b, size) }()
	err := pump(b, a, size)
	return errors.Join(err, <-errs)
}

// pump sends size bytes into w and compares what comes out of r.
func pump(w io.Writer, r io.Reader, size int) error {
	want, wrote := sha256.New(), make(chan error, 1)
	go func() {
		block := make([]byte, 100_001)
		_, _ = rand.Read(block)
		var err error
		for n := size; n > 0 && err == nil; n -= len(block) {
			block = block[:min(n, len(block))]
			want.Write(block)
			_, err = w.Write(block)
		}
		wrote <- err
	}()
	got := sha256.New()
	if _, err := io.CopyN(got, r, int64(size)); err != nil {
		return err
	}
	if err := <-wrote; err != nil {
		return err
	}
	if [32]byte(got.Sum(nil)) != [32]byte(want.Sum(nil)) {
		return errors.New("other bytes arrived")
	}
	return nil
}

var layouts = map[string]layout{
	"Linux 6.1":              linux61,
	"one descriptor":         {eventIdx: true, size: 128, oneDesc: true, rxRoom: 4096 - packetHeaderSize},
	"no event index":         {size: 128, rxRoom: 4096},
	"small ring and buffers": {eventIdx: true, size: 4, rxRoom: 1},
	"large buffers":          {eventIdx: true, size: 32, rxRoom: 1 << 17},
}

func TestBulkBothWays(t *testing.T) {
	for name, l := range layouts {
		t.Run(name, func(t *testing.T) {
			size := 10 << 20
			switch {
			case l == linux61:
				size = 100 << 20
			case l.rxRoom == 1:
				size = 10 << 10
			}
			guests := make(chan *sock, 1)
			s := newStack(t, l, func(c *sock) { guests <- c })
			c, err := s.open(5000)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			start := time.Now()
			if err := exchange(c, <-guests, size); err != nil {
				t.Fatal(err)
			}
			t.Logf("%d KiB each way in %v", size>>10, time.Since(start))
		})
	}
}

func TestManyConnections(t *testing.T) {
	const conns, size = 200, 50_000
	guests := make([]chan *sock, conns)
	for i := range guests {
		guests[i] = make(chan *sock, 1)
	}
	s := newStack(t, linux61, func(c *sock) { guests[c.key.peer-5000] <- c })
	l := s.listen(80)
	errs := make(chan error)
	for i := range conns {
		go func() { // from the host
			c, err := s.open(uint32(5000 + i))
			if err == nil {
				err = exchange(c, <-guests[i], size)
				c.Close()
			}
			errs <- err
		}()
		go func() { // from the guest; the host's program sends back what it gets
			g, err := s.connect(80)
			if err == nil {
				err = pump(g, g, size)
				g.Close()
			}
			errs <- err
		}()
	}
	go serve.Connections(l, serve.Echo)
	for range 2 * conns {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

// Readers that stop, on both sides, hold up nobody, and nobody's data are lost.
func TestStalledReaders(t *testing.T) {
	guests := make(chan *sock, 1)
	s := newStack(t, linux61, func(c *sock) { guests <- c })
	const size = 1 << 20 // more than sockets and buffers hold
	var hosts []*net.UnixConn
	var stalled []*sock
	wrote := make(chan error, 20)
	for range 10 {
		c, err := s.open(5000)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		g := <-guests
		hosts, stalled = append(hosts, c), append(stalled, g)
		for _, w := range []io.Writer{c, g} {
			go func() {
				_, err := w.Write(make([]byte, size))
				wrote <- err
			}()
		}
	}
	c, err := s.open(5000)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := exchange(c, <-guests, 4<<20); err != nil {
		t.Fatal(err)
	}
	if len(wrote) != 0 {
		t.Error("a writer whose reader does not read has come to its end")
	}
	read := make(chan error)
	for i := range hosts {
		for _, r := range []io.Reader{hosts[i], stalled[i]} {
			go func() {
				_, err := io.CopyN(io.Discard, r, size)
				read <- err
			}()
		}
	}
	for range 20 {
		if err := errors.Join(<-wrote, <-read); err != nil {
			t.Error(err)
		}
	}
}

// Programs that go away in the middle, on both sides, leave nothing behind.
func TestPeersThatVanish(t *testing.T) {
	guests := make(chan *sock, 1)
	s := newStack(t, linux61, func(c *sock) { guests <- c })
	var wg sync.WaitGroup
	for i := range 40 {
		c, err := s.open(5000)
		if err != nil {
			t.Fatal(err)
		}
		g := <-guests
		for _, end := range []io.ReadWriteCloser{c, g} {
			wg.Go(func() {
				_, _ = end.Write(make([]byte, 1<<20))
				_ = end.Close()
			})
			wg.Go(func() { _, _ = io.Copy(io.Discard, end) })
		}
		wg.Go(func() {
			if i%2 == 0 {
				_ = c.Close()
				return
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			if !g.reset {
				g.reset = true
				g.packet(opRst, 0, nil)
				delete(s.socks, g.key)
				s.cond.Broadcast()
			}
		})
	}
	wg.Wait()
	c, err := s.open(5000)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := exchange(c, <-guests, 1<<20); err != nil {
		t.Fatal(err)
	}
}

func BenchmarkBulk(b *testing.B) {
	for _, to := range []string{"guest", "host"} {
		b.Run("to "+to, func(b *testing.B) {
			guests := make(chan *sock, 1)
			s := newStack(b, linux61, func(c *sock) { guests <- c })
			c, err := s.open(5000)
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
			var r io.Reader = <-guests
			var w io.Writer = c
			if to == "host" {
				r, w = c, r.(io.Writer)
			}
			block := make([]byte, 1<<20)
			b.SetBytes(int64(len(block)))
			go func() {
				for range b.N {
					_, _ = w.Write(block)
				}
			}()
			if _, err := io.CopyN(io.Discard, r, int64(b.N)*int64(len(block))); err != nil {
				b.Fatal(err)
			}
		})
	}
}
