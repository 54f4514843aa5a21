package attach

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func newHub(t *testing.T, o Options) (h *Hub, dial func() net.Conn) {
	t.Helper()
	o.Log = slog.New(slog.DiscardHandler)
	if o.Ready == nil {
		o.Ready = func() error { return nil }
	}
	h = NewHub(o)
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go h.Serve(l)
	return h, func() net.Conn {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
}

func attached(t *testing.T, conn net.Conn) *Client {
	t.Helper()
	c, err := Open(conn)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func write(t *testing.T, w io.Writer, text string) {
	t.Helper()
	if n, err := io.WriteString(w, text); n != len(text) || err != nil {
		t.Fatal(n, err)
	}
}

func TestWhatAClientLeavesIsNotTheNextProcesssInput(t *testing.T) {
	h, _ := newHub(t, Options{Stdin: true})
	near, far := net.Pipe()
	t.Cleanup(func() { far.Close() })
	go func() { _, _ = io.Copy(io.Discard, far) }()
	c := &client{conn: near}
	h.clients[c] = true
	done := make(chan struct{})
	go func() {
		defer close(done)
		h.feed(c, []byte("late"))
	}()
	h.End(Exit{})
	r := h.Input(nil)
	go func() {
		<-done
		h.End(Exit{})
	}()
	if b, err := io.ReadAll(r); err != nil || len(b) > 0 {
		t.Errorf("the next process reads %q, %v", b, err)
	}
}

func TestAllWhoAreAttachedGetTheOutputAndTheEnd(t *testing.T) {
	h, dial := newHub(t, Options{})
	a, b := attached(t, dial()), attached(t, dial())
	out := strings.Repeat("output\n", 50_000)
	go func() {
		write(t, h.Stdout(), out)
		write(t, h.Stderr(), "errors\n")
		h.End(Exit{Code: 7, Text: "a word"})
	}()
	other := make(chan error, 1)
	go func() {
		_, err := b.Receive(io.Discard, io.Discard)
		other <- err
	}()
	var stdout, stderr bytes.Buffer
	exit, err := a.Receive(&stdout, &stderr)
	if err != nil || exit != (Exit{7, "a word"}) || stdout.String() != out || stderr.String() != "errors\n" {
		t.Errorf("%+v, %v, %d and %d bytes", exit, err, stdout.Len(), stderr.Len())
	}
	if err := <-other; err != nil {
		t.Error(err)
	}
}

func TestAttachingIsRefusedWithTheReason(t *testing.T) {
	_, dial := newHub(t, Options{Ready: func() error { return errors.New("it is paused") }})
	if _, err := Open(dial()); err == nil || err.Error() != "it is paused" {
		t.Errorf("got %v", err)
	}
}

func TestWhoTakesNothingIsLetGo(t *testing.T) {
	h, dial := newHub(t, Options{})
	stuck := attached(t, dial())
	h.mu.Lock()
	for c := range h.clients {
		c.mu.Lock()
		c.slow = 50 * time.Millisecond
		c.mu.Unlock()
	}
	h.mu.Unlock()
	// Who takes what comes may do it slowly.
	good := attached(t, dial())
	text := strings.Repeat("x", 4<<20)
	go func() {
		write(t, h.Stdout(), text)
		h.End(Exit{})
	}()
	var out bytes.Buffer
	if _, err := good.Receive(&out, io.Discard); err != nil || out.Len() != len(text) {
		t.Errorf("%d bytes, %v", out.Len(), err)
	}
	if _, err := stuck.Receive(io.Discard, io.Discard); !errors.Is(err, ErrLost) {
		t.Errorf("the one who took nothing got %v", err)
	}
}

func TestTheFirstOneIsWaitedFor(t *testing.T) {
	h, _ := newHub(t, Options{TTY: true, Stdin: true})
	client, server := net.Pipe()
	admitted := make(chan error, 1)
	go func() { admitted <- h.AddFirst(server) }()
	c := attached(t, client)
	if err := <-admitted; err != nil || !c.TTY || !c.Stdin {
		t.Fatalf("%v, %+v", err, c)
	}
	written := make(chan struct{})
	go func() {
		write(t, h.Stdout(), "first")
		close(written)
		h.End(Exit{})
	}()
	select {
	case <-written:
		t.Error("nobody waited")
	case <-time.After(50 * time.Millisecond):
	}
	var out bytes.Buffer
	if _, err := c.Receive(&out, io.Discard); err != nil || out.String() != "first" {
		t.Errorf("%q, %v", out.String(), err)
	}
}

func TestInputComesTogether(t *testing.T) {
	h, dial := newHub(t, Options{Stdin: true})
	a, b := attached(t, dial()), attached(t, dial())
	sent := make(chan error, 1)
	go func() { sent <- a.Send(strings.NewReader("before the process, ")) }()
	first, w := io.Pipe()
	in := h.Input(first)
	expect := func(text string) {
		t.Helper()
		buf := make([]byte, len(text))
		if _, err := io.ReadFull(in, buf); err != nil || string(buf) != text {
			t.Fatalf("%q, %v, want %q", buf, err, text)
		}
	}
	expect("before the process, ")
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	if err := b.Send(strings.NewReader("by another, ")); err != nil {
		t.Fatal(err)
	}
	expect("by another, ")
	go func() {
		_, _ = io.WriteString(w, "by the first")
		w.Close()
	}()
	expect("by the first")
	if n, err := in.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("%d, %v", n, err)
	}
	if err := a.Send(strings.NewReader("lost")); err != nil {
		t.Error(err)
	}
	// The next process gets what comes for it.
	in = h.Input(nil)
	if err := a.Send(strings.NewReader("again")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 9)
	n, err := io.ReadAtLeast(in, buf, 5)
	if text := strings.TrimPrefix(string(buf[:n]), "lost"); err != nil || text != "again" && text != "a" {
		t.Errorf("%q, %v", buf[:n], err)
	}
}

func TestWhoBreaksTheProtocolIsLetGo(t *testing.T) {
	_, dial := newHub(t, Options{Stdin: true})
	for _, b := range []string{"\x04\x00\x00\x00\x01x", "\x03\xff\xff\xff\xff", "GET / HTTP/1.1\r\n\r\n"} {
		conn := dial()
		c := attached(t, conn)
		if _, err := io.WriteString(conn, b); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Receive(io.Discard, io.Discard); !errors.Is(err, ErrLost) {
			t.Errorf("%q: %v", b, err)
		}
	}
}

func TestNotMoreThanSoManyCanBeAttached(t *testing.T) {
	_, dial := newHub(t, Options{})
	for range maxClients {
		attached(t, dial())
	}
	if _, err := Open(dial()); err == nil || !strings.Contains(err.Error(), "more are not possible") {
		t.Errorf("got %v", err)
	}
}

func TestWhoLeavesWhileNobodyTakesItsInputKeepsNoPlace(t *testing.T) {
	h, dial := newHub(t, Options{Stdin: true})
	r := h.Input(nil)
	for range maxClients {
		conn := dial()
		attached(t, conn)
		for range 3 { // more than one: the next is not read before the first is taken
			if err := writeFrame(conn, frameStdin, []byte("x")); err != nil {
				t.Fatal(err)
			}
		}
		conn.Close()
	}
	for len(h.all()) > 0 {
		time.Sleep(10 * time.Millisecond)
	}
	attached(t, dial())
	go h.End(Exit{})
	if b, err := io.ReadAll(r); err != nil || len(b) > maxClients {
		t.Errorf("the process reads %d bytes, %v", len(b), err)
	}
}

// FuzzReceive has a monitor that sends any bytes.
func FuzzReceive(f *testing.F) {
	f.Add([]byte("\x01\x00\x00\x00\x02{}\x04\x00\x00\x00\x01x\x06\x00\x00\x00\x0a{\"code\":3}"))
	f.Add([]byte("\x02\x00\x00\x00\x02no"))
	f.Fuzz(func(t *testing.T, b []byte) {
		client, server := net.Pipe()
		go func() {
			_, _ = server.Write(b)
			server.Close()
		}()
		c, err := Open(client)
		if err != nil {
			return
		}
		var out bytes.Buffer
		if _, err := c.Receive(&out, &out); err == nil && out.Len() > len(b) {
			t.Errorf("%d bytes became %d", len(b), out.Len())
		}
		client.Close()
	})
}
