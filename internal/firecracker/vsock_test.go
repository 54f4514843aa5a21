package firecracker

import (
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/runcvm/runcvm/test/serve"
)

// listen serves each connection to a Unix socket by answer, and returns the socket's path.
func listen(t *testing.T, answer func(net.Conn)) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go serve.Connections(l, func(c net.Conn) {
		defer c.Close()
		answer(c)
	})
	return path
}

// greetWith answers CONNECT with these bytes and holds the connection until the peer closes it.
func greetWith(text string) func(net.Conn) {
	return func(c net.Conn) {
		_, _ = c.Read(make([]byte, 64))
		_, _ = io.WriteString(c, text)
		_, _ = io.Copy(io.Discard, c)
	}
}

func TestTheGreetingIsTakenAndWhatFollowsIsTheStreams(t *testing.T) {
	path := listen(t, greetWith("OK 1073741824\nfirst bytes"))
	conn, err := Dial(t.Context(), path, 1024)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	b := make([]byte, 11)
	if _, err := io.ReadFull(conn, b); err != nil || string(b) != "first bytes" {
		t.Errorf("read %q, %v", b, err)
	}
}

func TestAGreetingThatIsNoneIsAnError(t *testing.T) {
	for name, text := range map[string]string{
		"other words":             "HELLO\n",
		"no port":                 "OK \n",
		"a port that is no port":  "OK 4294967296\n",
		"negative":                "OK -1\n",
		"nothing on the line":     "\n",
		"a line without end":      "OK 1" + strings.Repeat("0", 100),
		"binary":                  "\x00\xff\x00\xff\n",
		"OK after something else": "x OK 1024\n",
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := Dial(t.Context(), listen(t, greetWith(text)), 1024)
			if err == nil {
				conn.Close()
				t.Fatal("taken as a greeting")
			}
			if errors.Is(err, ErrRefused) {
				t.Errorf("taken as a refusal, which is tried again for ever: %v", err)
			}
		})
	}
}

func TestAConnectionThatIsClosedIsARefusal(t *testing.T) {
	for name, answer := range map[string]func(net.Conn){
		"at once":             func(net.Conn) {},
		"within the greeting": func(c net.Conn) { _, _ = c.Read(make([]byte, 64)); _, _ = io.WriteString(c, "OK 10") },
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Dial(t.Context(), listen(t, answer), 1024); !errors.Is(err, ErrRefused) {
				t.Errorf("got %v, want a refusal", err)
			}
		})
	}
}

func TestADialEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, err := Dial(ctx, listen(t, greetWith("")), 1024)
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > attemptTimeout/2 {
		t.Errorf("got %v after %s", err, time.Since(start))
	}
}

func TestRefusalsAreTriedAgainUntilTheGuestAnswers(t *testing.T) {
	var attempts atomic.Int32
	path := listen(t, func(c net.Conn) {
		if attempts.Add(1) < 4 {
			return
		}
		greetWith("OK 1\n")(c)
	})
	conn, err := DialRetry(t.Context(), path, 1024)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

func TestDialRetryKeepsTheLastRefusal(t *testing.T) {
	path := listen(t, func(net.Conn) {})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := DialRetry(ctx, path, 1024); !errors.Is(err, ErrRefused) {
		t.Errorf("got %v, want a refusal", err)
	}
}

func TestAVMMThatIsGoneIsNotTriedAgain(t *testing.T) {
	// The test's own context has no end: a retry would hang.
	if _, err := DialRetry(t.Context(), filepath.Join(t.TempDir(), "none"), 1024); err == nil || errors.Is(err, ErrRefused) {
		t.Errorf("got %v", err)
	}
}
