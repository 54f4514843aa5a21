package guestapi

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// pair is two ends of a connection that, like vsock, buffers.
func pair(t *testing.T) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("unix", t.TempDir()+"/s")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err = net.Dial("unix", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(20 * time.Second)
	for _, c := range []net.Conn{a, b} {
		t.Cleanup(func() { c.Close() })
		if err := c.SetDeadline(deadline); err != nil {
			t.Fatal(err)
		}
	}
	return a, b
}

func TestStreamArrivesWholeAndInOrder(t *testing.T) {
	random := make([]byte, 3<<20+17)
	rand.Read(random)
	for name, in := range map[string][]byte{
		"nothing": {}, "one byte": {7}, "a full frame": random[:MaxPayload], "a full frame and one": random[:MaxPayload+1], "3 MiB": random,
	} {
		t.Run(name, func(t *testing.T) {
			a, b := pair(t)
			sent := make(chan error, 1)
			go func() { sent <- Send(a, io.NopCloser(bytes.NewReader(in))) }()
			var out bytes.Buffer
			if err := Receive(b, &out); err != nil {
				t.Fatal(err)
			}
			if err := <-sent; err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(out.Bytes(), in) {
				t.Fatalf("%d bytes came of %d, or other ones", out.Len(), len(in))
			}
		})
	}
}

// The sender's promise is the receiver's: nothing is reported as sent before it is written.
func TestSendReturnsOnlyAfterTheLastByteIsWritten(t *testing.T) {
	a, b := pair(t)
	sent := make(chan error, 1)
	go func() { sent <- Send(a, io.NopCloser(strings.NewReader("last words"))) }()
	w := &gate{entered: make(chan struct{}), open: make(chan struct{})}
	received := make(chan error, 1)
	go func() { received <- Receive(b, w) }()
	<-w.entered
	select {
	case err := <-sent:
		t.Fatalf("Send returned %v while the bytes were still being written", err)
	case <-time.After(50 * time.Millisecond):
	}
	close(w.open)
	if err := errors.Join(<-received, <-sent); err != nil {
		t.Fatal(err)
	}
}

type gate struct{ entered, open chan struct{} }

func (g *gate) Write(b []byte) (int, error) {
	close(g.entered)
	<-g.open
	return len(b), nil
}

func TestReaderThatIsGoneStopsTheSender(t *testing.T) {
	t.Run("while the source is silent", func(t *testing.T) {
		a, b := pair(t)
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		sent := make(chan error, 1)
		go func() { sent <- Send(a, r) }()
		if _, err := w.WriteString("x"); err != nil {
			t.Fatal(err)
		}
		gone := errors.New("nobody reads")
		if err := Receive(b, failingWriter{gone}); !errors.Is(err, gone) {
			t.Fatalf("Receive: %v", err)
		}
		if err := <-sent; !errors.Is(err, ErrReaderGone) {
			t.Fatalf("Send: %v", err)
		}
	})
	t.Run("while the source never stops, and the receiver closes", func(t *testing.T) {
		a, b := pair(t)
		sent := make(chan error, 1)
		go func() { sent <- Send(a, io.NopCloser(endless{})) }()
		go func() {
			_ = Receive(b, failingWriter{io.ErrClosedPipe})
			b.Close()
		}()
		if err := <-sent; !errors.Is(err, ErrReaderGone) {
			t.Fatalf("Send: %v", err)
		}
	})
}

type failingWriter struct{ err error }

func (f failingWriter) Write([]byte) (int, error) { return 0, f.err }

type endless struct{}

func (endless) Read(b []byte) (int, error) { return len(b), nil }

func TestErrorOfTheSourceEndsTheStreamAndIsReturned(t *testing.T) {
	a, b := pair(t)
	broken := errors.New("broken")
	sent := make(chan error, 1)
	go func() { sent <- Send(a, io.NopCloser(iotest.ErrReader(broken))) }()
	if err := Receive(b, io.Discard); err != nil {
		t.Fatal(err)
	}
	if err := <-sent; !errors.Is(err, broken) {
		t.Fatalf("Send: %v", err)
	}
}

func TestConnectionThatEndsEarlyIsNoEnd(t *testing.T) {
	for name, in := range map[string][]byte{
		"before a frame":     nil,
		"inside of a header": {frameData, 0},
		"before the payload": appendFrame(nil, frameData, []byte("abc"))[:headerSize],
		"inside the payload": appendFrame(nil, frameData, []byte("abc"))[:headerSize+1],
		"after data":         appendFrame(nil, frameData, []byte("abc")),
	} {
		t.Run(name, func(t *testing.T) {
			if err := Receive(fromBytes(in), io.Discard); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatalf("Receive: %v", err)
			}
		})
	}
	t.Run("for the sender", func(t *testing.T) {
		a, b := pair(t)
		b.Close()
		if err := Send(a, io.NopCloser(endless{})); err == nil || errors.Is(err, ErrReaderGone) {
			t.Fatalf("Send: %v", err)
		}
	})
}

// fromBytes is a connection whose peer has written b and is gone.
func fromBytes(b []byte) io.ReadWriter {
	return struct {
		io.Reader
		io.Writer
	}{bytes.NewReader(b), io.Discard}
}

func TestFramesOutOfPlaceAreRefused(t *testing.T) {
	receive := func(b []byte) error { return Receive(fromBytes(b), io.Discard) }
	send := func(b []byte) error { return Send(fromBytes(b), io.NopCloser(strings.NewReader("x"))) }
	open := func(b []byte) error { return OpenStream(fromBytes(b), "c", "", Stdout) }
	accept := func(b []byte) error { _, _, _, err := AcceptStream(bytes.NewReader(b)); return err }
	for _, tt := range []struct {
		name string
		f    func([]byte) error
		in   []byte
	}{
		{"unknown type", receive, []byte{99, 0, 0, 0, 0}},
		{"too large", receive, []byte{frameData, 0, 1, 0, 1}},
		{"EOF with a payload", receive, appendFrame(nil, frameEOF, []byte("x"))},
		{"ACK to the receiver", receive, appendFrame(nil, frameAck, nil)},
		{"DATA to the sender", send, appendFrame(nil, frameData, []byte("x"))},
		{"DATA as the answer to OPEN", open, appendFrame(nil, frameData, []byte("x"))},
		{"too long a reason", open, []byte{frameError, 0, 0, 4, 1}},
		{"DATA as the opening", accept, appendFrame(nil, frameData, []byte("\x01c"))},
		{"OPEN without a container", accept, appendFrame(nil, frameOpen, []byte{1})},
		{"OPEN of a fourth stream", accept, appendFrame(nil, frameOpen, []byte("\x03c"))},
		{"OPEN with too long an id", accept, appendFrame(nil, frameOpen, make([]byte, 2+MaxContainerID))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := tt.f(tt.in); !errors.Is(err, ErrProtocol) {
				t.Fatalf("%v", err)
			}
		})
	}
}

func TestOpening(t *testing.T) {
	for _, s := range []Stream{Stdin, Stdout, Stderr} {
		a, b := pair(t)
		opened := make(chan error, 1)
		go func() { opened <- OpenStream(a, strings.Repeat("i", MaxContainerID), "exec", s) }()
		id, process, got, err := AcceptStream(b)
		if err != nil || len(id) != MaxContainerID || process != "exec" || got != s {
			t.Fatalf("AcceptStream: %q %q %v %v", id, process, got, err)
		}
		if err := errors.Join(Accept(b), <-opened); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("refused with the reason, which is cut", func(t *testing.T) {
		a, b := pair(t)
		opened := make(chan error, 1)
		go func() { opened <- OpenStream(a, "c", "", Stdin) }()
		if _, _, _, err := AcceptStream(b); err != nil {
			t.Fatal(err)
		}
		if err := Refuse(b, "no room "+strings.Repeat("x", 10<<10)); err != nil {
			t.Fatal(err)
		}
		if err := <-opened; err == nil || !strings.Contains(err.Error(), "no room") || len(err.Error()) > 2<<10 {
			t.Fatalf("OpenStream: %v", err)
		}
	})
}

// FuzzStream reads arbitrary bytes with every reader of the protocol. What Receive writes must be exactly the payloads of the DATA
// frames before the first other frame, and it may report success only after EOF.
func FuzzStream(f *testing.F) {
	f.Add(appendFrame(appendFrame(nil, frameData, []byte("hello")), frameEOF, nil))
	f.Add(appendFrame(nil, frameOpen, []byte("\x01container")))
	f.Add(appendFrame(nil, frameError, []byte("reason")))
	f.Add(appendFrame(nil, frameAck, nil))
	f.Add([]byte{frameData, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, in []byte) {
		var out bytes.Buffer
		err := Receive(fromBytes(in), &out)
		want, whole := model(in)
		if !bytes.Equal(out.Bytes(), want) {
			t.Fatalf("Receive wrote %q, the frames hold %q", out.Bytes(), want)
		}
		if (err == nil) != whole {
			t.Fatalf("Receive: %v, ended by EOF: %v", err, whole)
		}
		if id, p, s, err := AcceptStream(bytes.NewReader(in)); err == nil &&
			(id == "" || len(id) > MaxContainerID || len(p) > MaxContainerID || s > Stderr) {
			t.Fatalf("AcceptStream let %q %v in", id, s)
		}
		if err := OpenStream(fromBytes(in), "c", "", Stdin); err == nil && !bytes.HasPrefix(in, appendFrame(nil, frameAck, nil)) {
			t.Fatal("OpenStream took something else for an acknowledgement")
		}
		err = Send(fromBytes(in), io.NopCloser(strings.NewReader("x")))
		if ok := err == nil || errors.Is(err, ErrReaderGone); ok != bytes.HasPrefix(in, appendFrame(nil, frameAck, nil)) {
			t.Fatalf("Send: %v", err)
		}
	})
}

// model reads frames the slow way.
func model(in []byte) (payload []byte, whole bool) {
	for len(in) >= headerSize {
		n := int(in[1])<<24 | int(in[2])<<16 | int(in[3])<<8 | int(in[4])
		switch {
		case in[0] == frameEOF && n == 0:
			return payload, true
		case in[0] != frameData || n > MaxPayload || n > len(in)-headerSize:
			return payload, false
		}
		payload = append(payload, in[headerSize:headerSize+n]...)
		in = in[headerSize+n:]
	}
	return payload, false
}
