package vsock

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
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

func (c *clock) now() time.Time { return time.Now().Add(time.Duration(c.ahead.Load())) }

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
