package vsock

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// world is a device with a driver at its side.
type world struct {
	*driver
	dev    *Device
	served <-chan error
	uds    string
	clock  *clock
}

// clock is a clock that tests set forward.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time          { return time.Now().Add(time.Duration(c.ahead.Load())) }
func (c *clock) advance(d time.Duration) { c.ahead.Add(int64(d)) }

func newWorld(t testing.TB, l layout) *world {
	t.Helper()
	dev := newDevice(t)
	c := &clock{}
	dev.mux.now = c.now
	served := dev.serve(t)
	return &world{driver: newDriver(t, dev, l), dev: dev, served: served, uds: dev.cfg.UDSPath, clock: c}
}

func (w *world) dial() *net.UnixConn {
	w.t.Helper()
	c, err := net.Dial("unix", w.uds)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(timeout))
	return c.(*net.UnixConn)
}

func write(t testing.TB, c net.Conn, data string) {
	t.Helper()
	if _, err := io.WriteString(c, data); err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, c net.Conn, want string) {
	t.Helper()
	b := make([]byte, len(want))
	if n, err := io.ReadFull(c, b); string(b[:n]) != want {
		t.Fatalf("read %q (%v), want %q", b[:n], err, want)
	}
}

// closed makes sure that a host's program finds its connection closed, with nothing more to read.
func closed(t testing.TB, c net.Conn) {
	t.Helper()
	if b, err := io.ReadAll(c); len(b) != 0 || err != nil && !errors.Is(err, unix.ECONNRESET) {
		t.Fatalf("read %q (%v), want the end", b, err)
	}
}

// open connects a host's program to a guest's port and returns the host's port too.
func (w *world) open(guest uint32) (*net.UnixConn, uint32) {
	w.t.Helper()
	c := w.dial()
	write(w.t, c, fmt.Sprintf("CONNECT %d\n", guest))
	host := w.request(guest)
	w.op(opResponse, guest, host)
	read(w.t, c, fmt.Sprintf("OK %d\n", host))
	return c, host
}

// request waits for a connect to the guest and returns the host's port.
func (w *world) request(guest uint32) uint32 {
	w.t.Helper()
	select {
	case p := <-w.packets:
		if p.op != opRequest || p.dstPort != guest || p.srcCID != hostCID || p.dstCID != testCID || p.typ != typeStream ||
			p.bufAlloc != txBufSize || p.fwdCnt != 0 || p.len != 0 {
			w.t.Fatalf("packet %+v, want a request to port %d", p.header, guest)
		}
		return p.srcPort
	case <-time.After(timeout):
		w.t.Fatal("no request")
	}
	panic("not reached")
}

// listen makes a host's program that the guest can reach.
func (w *world) listen(port uint32) net.Listener {
	w.t.Helper()
	l, err := net.Listen("unix", fmt.Sprintf("%s_%d", w.uds, port))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { l.Close() })
	return l
}

func TestHostConnects(t *testing.T) {
	w := newWorld(t, linux61)
	// Ports of the host's side count up from 2^30.
	for i := range uint32(3) {
		c, host := w.open(5000 + i)
		if host != firstLocalPort+i {
			t.Errorf("host's port %d, want %d", host, firstLocalPort+i)
		}
		write(t, c, "hello")
		if p := w.expect(opRW, 5000+i, host); string(p.payload) != "hello" {
			t.Errorf("the guest got %q", p.payload)
		}
		w.write(5000+i, host, []byte("world"))
		read(t, c, "world")
	}
}

func TestGuestRefuses(t *testing.T) {
	w := newWorld(t, linux61)
	c := w.dial()
	write(t, c, "CONNECT 5000\n")
	w.op(opRst, 5000, w.request(5000))
	closed(t, c)
}

func TestConnectCommand(t *testing.T) {
	w := newWorld(t, linux61)
	for _, tc := range []struct {
		command string
		port    uint32 // 0: refused
	}{
		{"CONNECT 7\n", 7},
		{"connect 52\n", 52},
		{"CoNnEcT 52\n", 52},
		{"CONNECT +52\n", 52},
		{"CONNECT 0052\n", 52},
		{"  CONNECT \t 52  \n", 52},
		{"CONNECT 52 and more\n", 52},
		{"CONNECT\n52\n", 52},
		{"CONNECT 4294967295\n", 4294967295},
		{"CONNECT 52 a line of more than 32 bytes, of which 32 count\n", 52},
		{"CONNECT 4294967296\n", 0},
		{"CONNECT -1\n", 0},
		{"CONNECT ++1\n", 0},
		{"CONNECT +\n", 0},
		{"CONNECT 1_0\n", 0},
		{"CONNECT 0x10\n", 0},
		{"CONNECT port\n", 0},
		{"CONNECT         \n", 0},
		{"CONNECTED 52\n", 0},
		{"HELLO 52 52\n", 0},
		{"\n\n\n\n\n\n\n\n\n\n", 0},
		{"CONNECT 52 \xff\n", 0},
		{"CONNECT 52", 0},   // no end of line yet: nothing is waited for
		{"CONNECT 7", 0},    // less than the shortest command
		{"CONNECT 123", 0},  //
		{"CONNECT 52 a", 0}, //
	} {
		c := w.dial()
		write(t, c, tc.command)
		if tc.port == 0 {
			closed(t, c)
			continue
		}
		host := w.request(tc.port)
		w.op(opResponse, tc.port, host)
		read(t, c, fmt.Sprintf("OK %d\n", host))
		if len(tc.command) > 32 { // the rest is data
			w.expect(opRW, tc.port, host)
		}
	}
	w.silent()
}

func TestWhatFollowsTheCommandIsData(t *testing.T) {
	w := newWorld(t, linux61)
	c := w.dial()
	write(t, c, "CONNECT 5000\nearly")
	host := w.request(5000)
	w.silent() // the guest has given no credit yet
	w.op(opResponse, 5000, host)
	read(t, c, fmt.Sprintf("OK %d\n", host))
	if p := w.expect(opRW, 5000, host); string(p.payload) != "early" {
		t.Errorf("the guest got %q", p.payload)
	}
}

func TestGuestConnects(t *testing.T) {
	w := newWorld(t, linux61)
	l := w.listen(80)
	w.op(opRequest, 1234, 80)
	w.expect(opResponse, 1234, 80)
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	w.write(1234, 80, []byte("hello"))
	read(t, c, "hello")
	write(t, c, "world")
	if p := w.expect(opRW, 1234, 80); string(p.payload) != "world" {
		t.Errorf("the guest got %q", p.payload)
	}
	// A second request for the same ports is ignored, another source port is another connection.
	w.op(opRequest, 1234, 80)
	w.silent()
	w.op(opRequest, 1235, 80)
	w.expect(opResponse, 1235, 80)
}

func TestHostRefuses(t *testing.T) {
	w := newWorld(t, linux61)
	w.op(opRequest, 1234, 81) // no such socket
	w.expect(opRst, 1234, 81)
	if err := os.WriteFile(w.uds+"_82", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w.op(opRequest, 1234, 82) // not a socket
	w.expect(opRst, 1234, 82)
	l := w.listen(83)
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	w.op(opRequest, 1234, 83) // nobody listens
	w.expect(opRst, 1234, 83)
}

// A listener whose backlog is full is waited for, and nobody else has to wait.
func TestFullBacklog(t *testing.T) {
	w := newWorld(t, linux61)
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "listener")
	defer f.Close()
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: w.uds + "_80"}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	l, err := net.FileListener(f)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	w.op(opRequest, 1, 80) // fills the backlog of one
	w.expect(opResponse, 1, 80)
	w.op(opRequest, 2, 80) // has to wait
	w.op(opRequest, 3, 80) // has to wait too, but the guest gives up
	w.op(opRst, 3, 80)
	w.silent()
	for range 2 {
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	w.expect(opResponse, 2, 80)
	w.silent()
}

func TestPacketsThatBelongToNothing(t *testing.T) {
	w := newWorld(t, linux61)
	for op := range uint16(20) {
		if op != opRequest {
			w.op(op, 1, 2)
			w.expect(opRst, 1, 2) // also for an RST
		}
	}
	for _, cid := range []uint64{0, 1, 3, testCID, 1<<32 - 1, 1<<32 | hostCID} {
		h := w.head(opRequest, 1, 2)
		h.dstCID = cid
		w.transmit(h, nil)
	}
	w.silent() // other CIDs get no answer at all
	c, host := w.open(5000)
	h := w.head(opRW, 5000, host)
	h.typ = 2 // SEQPACKET
	w.transmit(h, []byte("x"))
	w.expect(opRst, 5000, host)
	write(t, c, "the connection is not affected")
	w.expect(opRW, 5000, host)
}

func TestCreditOfTheGuest(t *testing.T) {
	w := newWorld(t, linux61)
	c := w.dial()
	write(t, c, "CONNECT 5000\n")
	host := w.request(5000)
	h := w.head(opResponse, 5000, host)
	h.bufAlloc = 10
	w.transmit(h, nil)
	read(t, c, fmt.Sprintf("OK %d\n", host))
	write(t, c, "0123456789abcdefghij")
	if p := w.expect(opRW, 5000, host); string(p.payload) != "0123456789" {
		t.Errorf("the guest got %q", p.payload)
	}
	w.silent()
	h.op, h.fwdCnt = opCreditUpdate, 4
	w.transmit(h, nil)
	if p := w.expect(opRW, 5000, host); string(p.payload) != "abcd" {
		t.Errorf("the guest got %q", p.payload)
	}
	w.silent()
	h.fwdCnt, h.bufAlloc = 14, 100
	w.transmit(h, nil)
	if p := w.expect(opRW, 5000, host); string(p.payload) != "efghij" {
		t.Errorf("the guest got %q", p.payload)
	}
}

func TestCreditOfTheHost(t *testing.T) {
	w := newWorld(t, linux61)
	c, host := w.open(5000)
	w.write(5000, host, make([]byte, 1000))
	w.op(opCreditRequest, 5000, host)
	if p := w.expect(opCreditUpdate, 5000, host); p.fwdCnt != 1000 || p.bufAlloc != txBufSize {
		t.Errorf("credit %+v", p.header)
	}
	// No update until the guest must think that less than 4 KiB are free.
	const quiet = txBufSize - creditThreshold
	w.write(5000, host, make([]byte, quiet))
	w.silent()
	w.write(5000, host, make([]byte, 1))
	if p := w.expect(opCreditUpdate, 5000, host); p.fwdCnt != 1000+quiet+1 {
		t.Errorf("credit %+v", p.header)
	}
	read(t, c, string(make([]byte, 1000+quiet+1)))
}

// fill writes to a host's program that does not read until its socket is full and the device holds the rest, n bytes. It returns
// what was sent.
func (w *world) fill(guest, host uint32) (sent []byte) {
	w.t.Helper()
	for i := 0; ; i++ {
		chunk := bytes.Repeat([]byte{byte(i)}, 4096)
		w.write(guest, host, chunk)
		sent = append(sent, chunk...)
		// What was forwarded tells when the socket is full.
		w.op(opCreditRequest, guest, host)
		for {
			p := w.expect(opCreditUpdate, guest, host)
			if int(p.fwdCnt) < len(sent) {
				return sent
			}
			if int(p.fwdCnt) == len(sent) && len(w.packets) == 0 {
				break
			}
		}
	}
}

func TestHostReaderThatStops(t *testing.T) {
	w := newWorld(t, linux61)
	c, host := w.open(5000)
	sent := w.fill(5000, host)
	// Others are not held up.
	other, otherHost := w.open(5001)
	w.write(5001, otherHost, []byte("hello"))
	read(t, other, "hello")
	// It goes on where it stopped; the guest hears of the room.
	read(t, c, string(sent))
	w.op(opCreditRequest, 5000, host)
	for {
		if p := w.expect(opCreditUpdate, 5000, host); int(p.fwdCnt) == len(sent) {
			break
		}
	}
}

func TestGuestThatExceedsItsCredit(t *testing.T) {
	w := newWorld(t, linux61)
	c, host := w.open(5000)
	sent := w.fill(5000, host)
	w.write(5000, host, make([]byte, maxPayload))
	w.expect(opRst, 5000, host)
	got, _ := io.ReadAll(c) // what was held is lost, what the socket had is not
	if !bytes.HasPrefix(sent, got) || len(got) == len(sent) {
		t.Errorf("%d bytes of %d arrived", len(got), len(sent))
	}
}

func TestEndOfTheHostClosesBothWays(t *testing.T) {
	for name, end := range map[string]func(*net.UnixConn) error{
		"close":      (*net.UnixConn).Close,
		"half-close": (*net.UnixConn).CloseWrite,
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, linux61)
			c, host := w.open(5000)
			write(t, c, "last words")
			if err := end(c); err != nil {
				t.Fatal(err)
			}
			if p := w.expect(opRW, 5000, host); string(p.payload) != "last words" {
				t.Errorf("the guest got %q", p.payload)
			}
			if p := w.expect(opShutdown, 5000, host); p.flags != shutdownReceive|shutdownSend {
				t.Errorf("shutdown flags %d", p.flags)
			}
			// What the guest still sends is thrown away; its shutdown changes nothing; its RST ends it.
			w.write(5000, host, []byte("too late"))
			w.opFlags(opShutdown, 5000, host, 3)
			w.silent()
			w.op(opRst, 5000, host)
			if name == "half-close" {
				closed(t, c)
			}
			w.op(opRW, 5000, host)
			w.expect(opRst, 5000, host)
		})
	}
}

func TestGuestShutsDownSending(t *testing.T) {
	w := newWorld(t, linux61)
	c, host := w.open(5000)
	w.opFlags(opShutdown, 5000, host, shutdownSend)
	// The host does not hear of it, what the guest sends after it is dropped, and the other direction goes on.
	w.write(5000, host, []byte("dropped"))
	write(t, c, "hello")
	w.expect(opRW, 5000, host)
	_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if n, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the host read %d bytes, %v", n, err)
	}
	// The other half too: that ends it.
	_ = c.SetReadDeadline(time.Now().Add(timeout))
	w.opFlags(opShutdown, 5000, host, shutdownReceive)
	w.expect(opRst, 5000, host)
	closed(t, c)
}

func TestGuestShutsDownReceiving(t *testing.T) {
	w := newWorld(t, linux61)
	c, host := w.open(5000)
	w.opFlags(opShutdown, 5000, host, shutdownReceive)
	w.silent() // data that come before the device has seen the shutdown turn into an RST
	write(t, c, "never sent")
	w.write(5000, host, []byte("hello"))
	read(t, c, "hello")
	w.silent()
	w.opFlags(opShutdown, 5000, host, shutdownSend)
	w.expect(opRst, 5000, host)
	closed(t, c)
}

func TestGuestCloses(t *testing.T) {
	w := newWorld(t, linux61)
	c, host := w.open(5000)
	w.write(5000, host, []byte("last words"))
	w.opFlags(opShutdown, 5000, host, 3)
	w.expect(opRst, 5000, host)
	read(t, c, "last words")
	closed(t, c)
}

func TestGuestResets(t *testing.T) {
	w := newWorld(t, linux61)
	c, host := w.open(5000)
	w.op(opRst, 5000, host)
	closed(t, c)
	w.silent()
}

// A guest that closes while the host's program is slow: what is held is given to the program, and the end follows.
func TestSlowReaderGetsWhatIsHeld(t *testing.T) {
	w := newWorld(t, linux61)
	c, host := w.open(5000)
	sent := w.fill(5000, host)
	w.opFlags(opShutdown, 5000, host, 3)
	w.silent()
	// Two seconds alone do not matter: only a new connection looks at the clock.
	w.clock.advance(shutdownTimeout + time.Second)
	w.silent()
	read(t, c, string(sent))
	w.expect(opRst, 5000, host)
	closed(t, c)
}

func TestSlowReaderLosesWhatIsHeld(t *testing.T) {
	w := newWorld(t, linux61)
	c, host := w.open(5000)
	sent := w.fill(5000, host)
	w.opFlags(opShutdown, 5000, host, 3)
	w.silent()
	w.clock.advance(shutdownTimeout - time.Second)
	w.open(5001) // in time
	w.clock.advance(2 * time.Second)
	d := w.dial()
	write(t, d, "CONNECT 5002\n")
	w.expect(opRst, 5000, host)
	w.request(5002)
	got, _ := io.ReadAll(c)
	if !bytes.HasPrefix(sent, got) || len(got) == len(sent) {
		t.Errorf("%d bytes of %d arrived", len(got), len(sent))
	}
}

// A shutdown in two steps never sets the time limit.
func TestSlowReaderAfterTwoShutdowns(t *testing.T) {
	w := newWorld(t, linux61)
	c, host := w.open(5000)
	sent := w.fill(5000, host)
	w.opFlags(opShutdown, 5000, host, shutdownSend)
	w.opFlags(opShutdown, 5000, host, shutdownReceive)
	w.silent()
	w.clock.advance(time.Hour)
	w.open(5001)
	read(t, c, string(sent))
	w.expect(opRst, 5000, host)
	closed(t, c)
}

func TestConnectThatTheGuestDoesNotAnswer(t *testing.T) {
	w := newWorld(t, linux61)
	c := w.dial()
	write(t, c, "CONNECT 5000\n")
	host := w.request(5000)
	w.clock.advance(connectTimeout + time.Second)
	w.silent()
	d := w.dial()
	write(t, d, "CONNECT 5001\n")
	w.expect(opRst, 5000, host)
	w.request(5001)
	closed(t, c)
}

func TestHostThatVanishes(t *testing.T) {
	w := newWorld(t, linux61)
	// Before the guest has answered: that is noticed when it does.
	c := w.dial()
	write(t, c, "CONNECT 5000\n")
	host := w.request(5000)
	c.Close()
	w.silent()
	w.op(opResponse, 5000, host)
	w.expect(opRst, 5000, host)
	// In the middle of a stream from the guest that is held up: the write fails.
	c, host = w.open(5001)
	w.fill(5001, host)
	c.Close()
	var ops []uint16
	for len(ops) == 0 || ops[len(ops)-1] != opRst {
		select {
		case p := <-w.packets:
			ops = append(ops, p.op)
		case <-time.After(timeout):
			t.Fatalf("no RST, operations %d", ops)
		}
	}
	w.op(opRW, 5001, host)
	w.expect(opRst, 5001, host)
}

// A program that goes away instead of taking what is held ends the connection that the guest has closed.
func TestHostThatVanishesAfterTheGuest(t *testing.T) {
	w := newWorld(t, linux61)
	c, host := w.open(5000)
	w.fill(5000, host)
	w.opFlags(opShutdown, 5000, host, 3)
	w.silent()
	c.Close()
	w.expect(opRst, 5000, host)
}

// QEMU can inherit its end of the connection.
func TestFrontend(t *testing.T) {
	dev, err := Listen(Config{GuestCID: testCID, UDSPath: t.TempDir() + "/v.sock"})
	if err != nil {
		t.Fatal(err)
	}
	served := dev.serve(t)
	end := dev.Frontend()
	if dev.Frontend() != nil {
		t.Error("there are two ends")
	}
	if _, err := end.Write(append(words32(1, 1), words32(0)...)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 20)
	if _, err := io.ReadFull(end, b); err != nil || b[12+3] == 0 {
		t.Errorf("features % x, %v", b, err)
	}
	end.Close()
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
	}
}

func TestServeEnds(t *testing.T) {
	t.Run("with its context", func(t *testing.T) {
		dev := newDevice(t)
		defer dev.Close()
		ctx, cancel := context.WithCancel(t.Context())
		served := make(chan error)
		go func() { served <- dev.Serve(ctx) }()
		cancel()
		if err := <-served; !errors.Is(err, context.Canceled) {
			t.Errorf("Serve: %v", err)
		}
	})
	t.Run("with Close", func(t *testing.T) {
		dev := newDevice(t)
		served := dev.serve(t)
		d := newDriver(t, dev, linux61)
		if err := dev.Close(); err != nil {
			t.Error(err)
		}
		if err := <-served; !errors.Is(err, ErrClosed) {
			t.Errorf("Serve: %v", err)
		}
		d.close()
		if err := dev.Serve(t.Context()); !errors.Is(err, ErrClosed) {
			t.Errorf("Serve after Close: %v", err)
		}
	})
}

func TestConnectionLimit(t *testing.T) {
	w := newWorld(t, linux61)
	l := w.listen(80)
	for i := range uint32(maxConnections) {
		w.op(opRequest, i, 80)
		w.expect(opResponse, i, 80)
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	w.op(opRequest, maxConnections, 80)
	w.expect(opRst, maxConnections, 80)
	closed(t, w.dial())
	w.op(opRst, 7, 80)
	w.silent()
	w.open(5000)
}

func TestPause(t *testing.T) {
	w := newWorld(t, linux61)
	c, host := w.open(5000)
	w.silent()
	w.stop()
	write(t, c, "while paused")
	late := w.dial()
	write(t, late, "CONNECT 5001\n")
	for range 3 { // the device has looked at both by now
		w.send(1, 0, nil)
		w.reply(1)
	}
	w.resume()
	if p := w.expect(opRW, 5000, host); string(p.payload) != "while paused" {
		t.Errorf("the guest got %q", p.payload)
	}
	w.request(5001)
	w.write(5000, host, []byte("hello"))
	read(t, c, "hello")
}

// A guest that gives no buffers costs no time, and nothing is lost.
func TestGuestWithoutBuffers(t *testing.T) {
	w := newWorld(t, linux61)
	c, host := w.open(5000)
	w.holdBuffers()
	const size = 1 << 20
	go func() { _, _ = c.Write(make([]byte, size)) }()
	got := 0
	for range w.rx.bufs {
		got += len(w.expect(opRW, 5000, host).payload)
	}
	before := cpuTime(t)
	time.Sleep(100 * time.Millisecond)
	if used := cpuTime(t) - before; used > 50*time.Millisecond {
		t.Errorf("%v of processor time in 100ms of waiting", used)
	}
	w.giveBuffers()
	for got < size {
		got += len(w.expect(opRW, 5000, host).payload)
	}
}

func cpuTime(t testing.TB) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func TestQEMUDisconnects(t *testing.T) {
	w := newWorld(t, linux61)
	c, _ := w.open(5000)
	w.driver.close()
	if err := <-w.served; err != nil {
		t.Errorf("Serve: %v", err)
	}
	if err := w.dev.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	closed(t, c)
	if err := w.dev.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	for _, p := range []string{w.dev.cfg.UDSPath, w.dev.cfg.BackendSocket} {
		if _, err := os.Lstat(p); !os.IsNotExist(err) {
			t.Errorf("%s is still there: %v", p, err)
		}
	}
}

// Everything that a device opens is closed with it.
func TestNoDescriptorIsLeft(t *testing.T) {
	before := descriptors(t)
	t.Run("device", func(t *testing.T) {
		w := newWorld(t, linux61)
		c, _ := w.open(5000)
		l := w.listen(80)
		defer l.Close()
		w.op(opRequest, 1, 80)
		w.expect(opResponse, 1, 80)
		w.dial() // has not said where to
		w.stop()
		w.resume()
		c.Close()
	})
	if after := descriptors(t); after > before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
}

func descriptors(t testing.TB) int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, e := range entries {
		// The runtime's own descriptors appear when they are needed first.
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && !strings.Contains(to, "eventpoll") {
			n++
		}
	}
	return n
}

func TestListenRefuses(t *testing.T) {
	dir := t.TempDir()
	there := dir + "/there"
	if err := os.WriteFile(there, []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		cfg  Config
		want string
	}{
		"CID 2":          {Config{GuestCID: 2, UDSPath: dir + "/a", BackendSocket: dir + "/b"}, "use 3 or more"},
		"no path":        {Config{GuestCID: 3, BackendSocket: dir + "/b"}, "the path is empty"},
		"path exists":    {Config{GuestCID: 3, UDSPath: there, BackendSocket: dir + "/b"}, "address already in use"},
		"backend exists": {Config{GuestCID: 3, UDSPath: dir + "/a", BackendSocket: there}, "address already in use"},
		"path too long":  {Config{GuestCID: 3, UDSPath: dir + strings.Repeat("/x", 60), BackendSocket: dir + "/b"}, "107 at most"},
	} {
		d, err := Listen(tc.cfg)
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
		if d != nil {
			t.Errorf("%s: a device beside an error", name)
		}
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("left in the directory: %v", entries)
	}
}
