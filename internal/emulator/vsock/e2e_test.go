//go:build e2e

package vsock

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/runcvm/runcvm/internal/kernel"
	"github.com/runcvm/runcvm/test/serve"
)

// machine is a guest of QEMU's with testdata/guest as PID 1.
type machine struct {
	t       testing.TB
	uds     string
	console string
	monitor string // QEMU's, for people's commands
}

// boot starts the guest and returns when it serves. The kernel is $RUNCVM_TEST_KERNEL, or the one that `make setup` unpacked.
func boot(t testing.TB) *machine {
	t.Helper()
	dir := t.TempDir()
	cache := filepath.Join(dir, "cache")
	ctx := t.Context()
	guest := filepath.Join(dir, "guest")
	build := exec.Command("go", "build", "-o", guest, "./testdata/guest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the guest: %v\n%s", err, out)
	}
	k, err := kernel.Find(ctx, kernel.Options{Path: os.Getenv("RUNCVM_TEST_KERNEL"),
		Roots: []string{"/usr/local/lib/runcvm/kernel", "/"}, CacheDir: cache})
	if err != nil {
		t.Fatal(err)
	}
	initrd, err := kernel.Initramfs(ctx, k, kernel.InitramfsOptions{Agent: guest, CacheDir: cache})
	if err != nil {
		t.Fatal(err)
	}

	m := &machine{t: t, uds: filepath.Join(dir, "v.sock"), console: filepath.Join(dir, "console"), monitor: filepath.Join(dir, "monitor")}
	d, err := Listen(Config{GuestCID: 42, UDSPath: m.uds,
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- d.Serve(context.Background()) }()

	qemu := exec.Command("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-machine", "microvm,acpi=on,memory-backend=mem", "-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", "512M",
		"-object", "memory-backend-memfd,id=mem,size=512M,share=on",
		"-chardev", "socket,id=vsock,fd=3", "-monitor", "unix:"+m.monitor+",server=on,wait=off", "-device", "vhost-user-vsock-device,chardev=vsock",
		"-serial", "file:"+m.console, "-kernel", k.Vmlinux, "-initrd", initrd,
		"-append", fmt.Sprintf("console=ttyS0 reboot=t panic=-1 tsc_early_khz=%d", tscKHz(t)))
	end := d.Frontend()
	qemu.ExtraFiles = []*os.File{end} // descriptor 3
	qemu.Stderr = os.Stderr
	qemu.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := qemu.Start(); err != nil {
		t.Fatal(err)
	}
	_ = end.Close()
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := os.ReadFile(m.console)
			t.Logf("console:\n%s", out)
		}
		_ = qemu.Process.Kill()
		_ = qemu.Wait()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if err := d.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	start := time.Now()
	for {
		out, _ := os.ReadFile(m.console)
		if strings.Contains(string(out), "guest ready, cid 42") {
			t.Logf("the guest is ready after %v", time.Since(start))
			return m
		}
		if time.Since(start) > 2*time.Minute {
			t.Fatal("the guest does not come up")
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// tscKHz is the frequency of the host's time stamp counter, which is the guest's under TCG.
func tscKHz(t testing.TB) int {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		t.Fatal(err)
	}
	mhz, err := strconv.ParseFloat(string(regexp.MustCompile(`cpu MHz\s*: ([0-9.]+)`).FindSubmatch(info)[1]), 64)
	if err != nil {
		t.Fatal(err)
	}
	return int(mhz * 1000)
}

func (m *machine) dial(port int) net.Conn {
	m.t.Helper()
	c, err := net.Dial("unix", m.uds)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(5 * time.Minute))
	if _, err := fmt.Fprintf(c, "CONNECT %d\n", port); err != nil {
		m.t.Fatal(err)
	}
	if line := readLine(m.t, c); !regexp.MustCompile(`^OK [0-9]+\n$`).MatchString(line) {
		m.t.Fatalf("CONNECT %d is answered by %q", port, line)
	}
	return c
}

// readLine reads a line, and not a byte more.
func readLine(t testing.TB, r io.Reader) string {
	t.Helper()
	var line []byte
	for b := make([]byte, 1); ; {
		if _, err := io.ReadFull(r, b); err != nil {
			t.Fatalf("after %q: %v", line, err)
		}
		line = append(line, b[0])
		if b[0] == '\n' {
			return string(line)
		}
	}
}

const bulk = 100 << 20

func TestLinuxGuest(t *testing.T) {
	m := boot(t)
	t.Run("takes 100 MB", func(t *testing.T) { m.sub(t).takes(bulk) })
	t.Run("sends 100 MB", func(t *testing.T) { m.sub(t).sends(bulk) })
	t.Run("takes 100 MB without sums", func(t *testing.T) {
		c := m.sub(t).dial(5006)
		start := time.Now()
		_, _ = c.Write(binary.BigEndian.AppendUint64(nil, bulk))
		if _, err := c.Write(make([]byte, bulk)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, sha256.Size)); err != nil {
			t.Fatal(err)
		}
		m.sub(t).report(bulk, start)
	})
	t.Run("sends 100 MB without sums", func(t *testing.T) {
		c := m.sub(t).dial(5007)
		start := time.Now()
		_, _ = c.Write(binary.BigEndian.AppendUint64(nil, bulk))
		if _, err := io.ReadFull(c, make([]byte, bulk+sha256.Size)); err != nil {
			t.Fatal(err)
		}
		m.sub(t).report(bulk, start)
	})
	t.Run("200 connections from the host", func(t *testing.T) {
		errs := make(chan error)
		for range 200 {
			go func() { errs <- m.echo(100_000) }()
		}
		for range 200 {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
	})
	t.Run("200 connections from the guest", func(t *testing.T) {
		l, err := net.Listen("unix", m.uds+"_7000")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go serve.Connections(l, serve.Echo)
		c := m.sub(t).dial(5003)
		fmt.Fprint(c, "dial 7000 200 100000\n")
		if got := readLine(t, c); got != "ok\n" {
			t.Error(got)
		}
	})
	t.Run("a port without a listener is refused", func(t *testing.T) {
		c, err := net.Dial("unix", m.uds)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fmt.Fprint(c, "CONNECT 9\n")
		if b, err := io.ReadAll(c); len(b) != 0 {
			t.Errorf("%q, %v", b, err)
		}
	})
	t.Run("a host port without a listener is refused", func(t *testing.T) {
		c := m.sub(t).dial(5003)
		fmt.Fprint(c, "dial 7001 1 10\n")
		if got := readLine(t, c); !strings.Contains(got, "connection reset") {
			t.Error(got)
		}
	})
	t.Run("connections outlive a pause", func(t *testing.T) {
		m := m.sub(t)
		c := m.dial(5000)
		fmt.Fprint(c, "before\n")
		if got := readLine(t, c); got != "before\n" {
			t.Error(got)
		}
		m.command("stop")
		fmt.Fprint(c, "while it was paused\n")
		late, err := net.Dial("unix", m.uds)
		if err != nil {
			t.Fatal(err)
		}
		defer late.Close()
		fmt.Fprint(late, "CONNECT 5000\nanother\n")
		_ = c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		if n, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the paused guest sent %d bytes, %v", n, err)
		}
		_ = c.SetReadDeadline(time.Now().Add(time.Minute))
		m.command("cont")
		if got := readLine(t, c); got != "while it was paused\n" {
			t.Error(got)
		}
		if got := readLine(t, late) + readLine(t, late); !strings.HasSuffix(got, "\nanother\n") {
			t.Error(got)
		}
	})
	t.Run("a reader that stops holds up nobody", func(t *testing.T) {
		stuck := m.sub(t).dial(5005)
		_ = stuck.SetWriteDeadline(time.Now().Add(2 * time.Second))
		n, err := stuck.Write(make([]byte, 8<<20))
		if err == nil {
			t.Errorf("the guest, which does not read, took %d bytes", n)
		}
		m.sub(t).takes(4 << 20)
		m.sub(t).sends(4 << 20)
	})
}

func (m *machine) sub(t testing.TB) *machine {
	return &machine{t: t, uds: m.uds, console: m.console, monitor: m.monitor}
}

// command gives QEMU's monitor a command and waits until it was carried out.
func (m *machine) command(line string) {
	m.t.Helper()
	c, err := net.Dial("unix", m.monitor)
	if err != nil {
		m.t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	for i, r := 0, bufio.NewReader(c); i < 2; i++ { // a prompt before the command and one after it
		for seen := ""; !strings.HasSuffix(seen, "(qemu) "); {
			b, err := r.ReadByte()
			if err != nil {
				m.t.Fatal(err)
			}
			seen += string(b)
		}
		if i == 0 {
			fmt.Fprintln(c, line)
		}
	}
}

func (m *machine) takes(n int) {
	m.t.Helper()
	data := make([]byte, n)
	_, _ = rand.Read(data)
	c := m.dial(5001)
	start := time.Now()
	_, err := c.Write(binary.BigEndian.AppendUint64(nil, uint64(n)))
	if err == nil {
		_, err = c.Write(data)
	}
	var sum [32]byte
	if err == nil {
		_, err = io.ReadFull(c, sum[:])
	}
	if err != nil || sum != sha256.Sum256(data) {
		m.t.Fatalf("sum %x, %v", sum, err)
	}
	m.report(n, start)
}

func (m *machine) sends(n int) {
	m.t.Helper()
	c := m.dial(5002)
	start := time.Now()
	_, err := c.Write(binary.BigEndian.AppendUint64(nil, uint64(n)))
	data := make([]byte, n)
	if err == nil {
		_, err = io.ReadFull(c, data)
	}
	var sum [32]byte
	if err == nil {
		_, err = io.ReadFull(c, sum[:])
	}
	if err != nil || sum != sha256.Sum256(data) {
		m.t.Fatalf("sum %x, %v", sum, err)
	}
	m.report(n, start)
}

func (m *machine) report(n int, start time.Time) {
	d := time.Since(start)
	m.t.Logf("%d MiB in %v: %.1f MiB/s", n>>20, d.Round(time.Millisecond), float64(n>>20)/d.Seconds())
}

// echo sends n bytes to the guest and reads them back.
func (m *machine) echo(n int) error {
	c, err := net.Dial("unix", m.uds)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Minute))
	data := make([]byte, n)
	_, _ = rand.Read(data)
	if _, err := fmt.Fprint(c, "CONNECT 5000\n"); err != nil {
		return err
	}
	wrote := make(chan error, 1)
	go func() {
		_, err := c.Write(data)
		wrote <- err
	}()
	ok := make([]byte, len("OK 1073741824\n"))
	if _, err := io.ReadFull(c, ok); err != nil {
		return fmt.Errorf("after CONNECT: %w", err)
	}
	back := make([]byte, n)
	if _, err := io.ReadFull(c, back); err != nil {
		return fmt.Errorf("after %s: %w", ok, err)
	}
	if sha256.Sum256(back) != sha256.Sum256(data) {
		return fmt.Errorf("other bytes came back")
	}
	return <-wrote
}
