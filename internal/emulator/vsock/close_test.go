package vsock

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

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
