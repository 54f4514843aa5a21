package qemu

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/runcvm/runcvm/internal/emulator/api"
)

func TestTSCRateIsThatOfAProcessor(t *testing.T) {
	first, second := newTSCMeter().kHz(), newTSCMeter().kHz()
	if first < 100_000 || first > 10_000_000 {
		t.Fatalf("%d kHz", first)
	}
	if difference := max(first, second) - min(first, second); difference > first/1000 {
		t.Fatalf("%d kHz, then %d kHz", first, second)
	}
}

// console gives chunks one after another, each when it is asked for.
type chunks struct{ left [][]byte }

func (c *chunks) Read(p []byte) (int, error) {
	if len(c.left) == 0 {
		return 0, io.EOF
	}
	n := copy(p, c.left[0])
	c.left = c.left[1:]
	return n, nil
}

func TestConsoleArrivesWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var in chunks
		var want bytes.Buffer
		for k := range 50 {
			line := bytes.Repeat([]byte{byte(k)}, k+1)
			in.left = append(in.left, line)
			want.Write(line)
		}
		var out bytes.Buffer
		relay(&out, &in)
		if !bytes.Equal(out.Bytes(), want.Bytes()) {
			t.Errorf("%d bytes of %d arrived", out.Len(), want.Len())
		}
	})
}

// stuck is a reader that takes nothing until it is let go.
type stuck struct{ free chan struct{} }

func (s stuck) Write(p []byte) (int, error) {
	<-s.free
	return len(p), nil
}

func TestConsoleWithoutAReaderStopsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := &chunks{}
		for range 10 * serialQueue {
			in.left = append(in.left, make([]byte, 100))
		}
		out := stuck{free: make(chan struct{})}
		ended := make(chan struct{})
		start := time.Now()
		go func() { relay(out, in); close(ended) }()
		synctest.Wait()
		time.Sleep(10 * serialQueue * serialPause)
		synctest.Wait()
		if len(in.left) != 0 {
			t.Errorf("after %v %d chunks have not been taken from the guest", time.Since(start), len(in.left))
		}
		close(out.free)
		<-ended
	})
}

func TestMessagesKeepTheirEnd(t *testing.T) {
	var m tail
	_, _ = m.Write([]byte(strings.Repeat("x", 2*maxMessages)))
	_, _ = m.Write([]byte("\nqemu-system-x86_64: one\nqemu: two\n"))
	if got := m.text(); len(got) > maxMessages || !strings.HasSuffix(got, "; one; two") {
		t.Fatalf("%d bytes ending in %q", len(got), got[len(got)-20:])
	}
}

func spec(t *testing.T, drives int) api.Spec {
	t.Helper()
	s := api.Spec{Machine: api.MachineConfig{VCPUCount: 2, MemSizeMiB: 128}, Boot: api.BootSource{KernelImagePath: "/k"}, Cmdline: "a=b"}
	readOnly := true
	path := filepath.Join(t.TempDir(), "a,b c")
	if err := os.WriteFile(path, make([]byte, 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	for range drives {
		s.Drives = append(s.Drives, api.Drive{DriveID: "d", PathOnHost: &path, IsReadOnly: &readOnly, CacheType: "Unsafe"})
	}
	return s
}

func TestDevicesGetSlotsInOrder(t *testing.T) {
	s := spec(t, 2)
	s.Entropy = true
	c, err := arguments(&s, accelTCG, os.Stdin, os.Stdin, nil)
	if err != nil {
		t.Fatal(err)
	}
	var devices []string
	for k, a := range c.args {
		if a == "-device" && strings.HasPrefix(c.args[k+1], "virtio-") {
			devices = append(devices, strings.Join(strings.SplitN(c.args[k+1], ",", 3)[:2], " "))
		}
	}
	want := []string{"virtio-blk-device bus=virtio-mmio-bus.2", "virtio-blk-device bus=virtio-mmio-bus.1", "virtio-rng-device bus=virtio-mmio-bus.0"}
	if !slices.Equal(devices, want) {
		t.Errorf("devices %q", devices)
	}
	all := strings.Join(c.args, "\n")
	for _, part := range []string{"ioapic2=off", `/a,b c"`, `"size":512`, `"read-only":true`, `"locking":"off"`, "tb-size=64"} {
		if !strings.Contains(all, part) {
			t.Errorf("no %s in %s", part, all)
		}
	}
}

func TestManyDevicesGetTheSecondInterruptController(t *testing.T) {
	s := spec(t, fewSlots+1)
	c, err := arguments(&s, accelKVM, os.Stdin, os.Stdin, nil)
	if err != nil || !strings.Contains(strings.Join(c.args, " "), "ioapic2=on") {
		t.Fatalf("%v %q", err, c.args)
	}
	s = spec(t, manySlots+1)
	if _, err := arguments(&s, accelKVM, os.Stdin, os.Stdin, nil); err == nil {
		t.Fatal("more devices than slots")
	}
}
