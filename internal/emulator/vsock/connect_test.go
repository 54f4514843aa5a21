package vsock

import (
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

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

func TestRestartOfTheGuestClosesConnections(t *testing.T) {
	w := newWorld(t, linux61)
	open, _ := w.open(5000)
	waiting := w.dial()
	write(t, waiting, "CONNECT 5001\n")
	w.request(5001) // which is never answered
	w.dev.Restarted()
	closed(t, open)
	closed(t, waiting)
	w.open(5002)
}
