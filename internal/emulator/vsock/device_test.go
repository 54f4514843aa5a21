package vsock

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

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
