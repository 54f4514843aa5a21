package guest

import (
	"bytes"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/runcvm/runcvm/internal/guestapi"
)

// streamServer is an agent with one container, whose stream port is a Unix socket.
func streamServer(t *testing.T) (c *container, dial func() net.Conn) {
	t.Helper()
	a, c := agentWithContainer(t)
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = a.serveStreams(l) }()
	t.Cleanup(func() { l.Close() })
	return c, func() net.Conn {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		return conn
	}
}

func pipes(t *testing.T, kind guestapi.Stream) (child, ours interface {
	io.ReadWriteCloser
}, pump func(s *stream, ended <-chan struct{}) <-chan error) {
	t.Helper()
	its, mine, err := pipeFor(kind)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { its.Close() })
	return its, mine, func(s *stream, ended <-chan struct{}) <-chan error {
		done := make(chan error, 1)
		go func() { done <- s.pump(mine, ended) }()
		return done
	}
}

func TestOutputReachesTheHostWhicheverOpensFirst(t *testing.T) {
	for _, hostFirst := range []bool{true, false} {
		c, dial := streamServer(t)
		child, _, pump := pipes(t, guestapi.Stdout)
		var done <-chan error
		conn := dial()
		if !hostFirst {
			done = pump(c.streams[guestapi.Stdout], c.ended)
		}
		if err := guestapi.OpenStream(conn, "c", "", guestapi.Stdout); err != nil {
			t.Fatal(err)
		}
		if hostFirst {
			done = pump(c.streams[guestapi.Stdout], c.ended)
		}
		go func() {
			_, _ = io.WriteString(child, strings.Repeat("output\n", 50000))
			child.Close()
		}()
		var out bytes.Buffer
		if err := guestapi.Receive(conn, &out); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil || out.Len() != 350000 {
			t.Fatalf("%d bytes, %v", out.Len(), err)
		}
	}
}

func TestProcessThatWritesGetsToKnowThatTheHostsReaderIsGone(t *testing.T) {
	c, dial := streamServer(t)
	child, _, pump := pipes(t, guestapi.Stdout)
	conn := dial()
	if err := guestapi.OpenStream(conn, "c", "", guestapi.Stdout); err != nil {
		t.Fatal(err)
	}
	done := pump(c.streams[guestapi.Stdout], c.ended)
	if err := guestapi.Accept(conn); err != nil { // an acknowledgement before the end
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(child, "x"); err == nil {
		t.Fatal("the pipe still has a reader")
	}
}

func TestInputEndsWhenTheProcessCloses(t *testing.T) {
	for name, end := range map[string]func(c *container, child io.Closer){
		"its end of the pipe": func(_ *container, child io.Closer) { child.Close() },
		"with its own end, having read nothing": func(c *container, _ io.Closer) {
			c.finish(exit{code: 1, at: time.Now()})
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, dial := streamServer(t)
			child, _, pump := pipes(t, guestapi.Stdin)
			conn := dial()
			if err := guestapi.OpenStream(conn, "c", "", guestapi.Stdin); err != nil {
				t.Fatal(err)
			}
			done := pump(c.streams[guestapi.Stdin], c.ended)
			sent := make(chan error, 1)
			go func() { sent <- guestapi.Send(conn, io.NopCloser(endless{})) }()
			end(c, child)
			if err := <-sent; !errors.Is(err, guestapi.ErrReaderGone) {
				t.Fatalf("Send: %v", err)
			}
			conn.Close()
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		})
	}
	t.Run("also when the host sends nothing", func(t *testing.T) {
		c, dial := streamServer(t)
		_, _, pump := pipes(t, guestapi.Stdin)
		conn := dial()
		if err := guestapi.OpenStream(conn, "c", "", guestapi.Stdin); err != nil {
			t.Fatal(err)
		}
		done := pump(c.streams[guestapi.Stdin], c.ended)
		silent, w := io.Pipe()
		defer w.Close()
		sent := make(chan error, 1)
		go func() { sent <- guestapi.Send(conn, silent) }()
		c.finish(exit{})
		if err := <-sent; !errors.Is(err, guestapi.ErrReaderGone) {
			t.Fatalf("Send: %v", err)
		}
		conn.Close()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	})
}

type endless struct{}

func (endless) Read(b []byte) (int, error) { return len(b), nil }

func TestStreamsAreRefused(t *testing.T) {
	c, dial := streamServer(t)
	open := func(id string, s guestapi.Stream) error { return guestapi.OpenStream(dial(), id, "", s) }
	if err := open("c", guestapi.Stderr); err != nil {
		t.Fatal(err)
	}
	c.streams[guestapi.Stdin].close()
	for want, err := range map[string]error{
		"no container":  open("other", guestapi.Stdout),
		"open already":  open("c", guestapi.Stderr),
		"is not used":   open("c", guestapi.Stdin),
		"no container ": open(strings.Repeat("x", guestapi.MaxContainerID), guestapi.Stdin),
	} {
		if err == nil || !strings.Contains(err.Error(), strings.TrimSpace(want)) {
			t.Errorf("%v; want %s", err, want)
		}
	}
	t.Run("garbage closes the connection", func(t *testing.T) {
		conn := dial()
		if _, err := conn.Write([]byte("GET / HTTP/1.1\r\n\r\n")); err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(conn); len(b) > 0 {
			t.Errorf("got %q, %v", b, err)
		}
	})
}
