package vmm

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/test/vmm/tinyguest"
)

// guest is firecracker-qemu with a running tinyguest.
type guest struct {
	t       *testing.T
	cmd     *exec.Cmd
	dir     string
	in      io.WriteCloser
	out     *os.File
	stderr  bytes.Buffer
	qemu    int
	qemuFD  int // pidfd
	console []byte
}

// bootGuest boots tinyguest by a configuration file and waits for its first words. Temporary files go to dir/tmp; env is
// set for the VMM.
func bootGuest(t *testing.T, extra string, env ...string) *guest {
	t.Helper()
	vmm := emulator(t)
	dir, err := os.MkdirTemp("", "vmm-") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := errors.Join(prepare(dir), os.Mkdir(filepath.Join(dir, "tmp"), 0o700)); err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf(`{"boot-source":{"kernel_image_path":"%[1]s/vmlinux"},"machine-config":{"vcpu_count":1,"mem_size_mib":64},`+
		`"drives":[{"drive_id":"d","path_on_host":"%[1]s/disk","is_root_device":false}],"vsock":{"guest_cid":3,"uds_path":"%[1]s/v.sock"}%[2]s}`, dir, extra)
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	g := &guest{t: t, dir: dir}
	g.cmd = exec.CommandContext(t.Context(), vmm, "--api-sock", filepath.Join(dir, "api.sock"), "--config-file", filepath.Join(dir, "config.json"),
		"--log-path", filepath.Join(dir, "log"))
	g.cmd.Env = append(append(os.Environ(), "TMPDIR="+filepath.Join(dir, "tmp")), env...)
	g.cmd.Stderr = &g.stderr
	if g.in, err = g.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := g.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	g.out = out.(*os.File)
	if err := g.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = g.cmd.Process.Kill() }) // has ended in a test that passes
	if extra == "" {
		g.expect(tinyguest.Banner)
		g.findQEMU()
	}
	return g
}

// expect reads the console until text has come.
func (g *guest) expect(text string) {
	g.t.Helper()
	if err := g.out.SetReadDeadline(time.Now().Add(stepTimeout)); err != nil {
		g.t.Fatal(err)
	}
	buf := make([]byte, 4096)
	for !bytes.Contains(g.console, []byte(text)) {
		n, err := g.out.Read(buf)
		g.console = append(g.console, buf[:n]...)
		if err != nil {
			g.t.Fatalf("console: %v after %q; %s", err, g.console, g.stderr.String())
		}
	}
}

func (g *guest) findQEMU() {
	g.t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", g.cmd.Process.Pid))
	if err != nil {
		g.t.Fatal(err)
	}
	for _, path := range tasks {
		b, _ := os.ReadFile(path) // a thread may have ended meanwhile
		if pid, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil {
			g.qemu = pid
		}
	}
	if g.qemu == 0 {
		g.t.Fatal("no QEMU below firecracker-qemu")
	}
	if g.qemuFD, err = unix.PidfdOpen(g.qemu, 0); err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { unix.Close(g.qemuFD) })
}

// qemuEnds waits for QEMU's end.
func (g *guest) qemuEnds() {
	g.t.Helper()
	fds := []unix.PollFd{{Fd: int32(g.qemuFD), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, int(stepTimeout.Milliseconds()))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n != 1 {
			g.t.Fatalf("QEMU lives on: %d %v", n, err)
		}
		return
	}
}

func (g *guest) log() string {
	g.t.Helper()
	b, err := os.ReadFile(filepath.Join(g.dir, "log"))
	if err != nil {
		g.t.Fatal(err)
	}
	return string(b)
}

// left lists what is in the guest's directory beyond what was there before.
func (g *guest) left() []string {
	g.t.Helper()
	var names []string
	err := filepath.WalkDir(g.dir, func(path string, _ os.DirEntry, err error) error {
		name := strings.TrimPrefix(path, g.dir+"/")
		switch name {
		case g.dir, "vmlinux", "initrd", "disk", "disk2", "disk3", "text", "folder", "config.json", "log", "tmp":
		default:
			names = append(names, name)
		}
		return err
	})
	if err != nil {
		g.t.Fatal(err)
	}
	return names
}

func TestConsoleGoesBothWaysAndRebootEndsAll(t *testing.T) {
	g := bootGuest(t, "")
	if _, err := io.WriteString(g.in, "echo me\n"); err != nil {
		t.Fatal(err)
	}
	g.expect("echo me\n")
	if _, err := io.WriteString(g.in, "r"); err != nil {
		t.Fatal(err)
	}
	if err := g.cmd.Wait(); err != nil {
		t.Fatalf("after a reboot: %v\n%s", err, g.log())
	}
	g.qemuEnds()
	// Firecracker leaves its API socket as well.
	if left := g.left(); len(left) != 1 || left[0] != "api.sock" {
		t.Errorf("left: %q", left)
	}
}

// Only by emulation: a triple fault of a guest's guest can hang QEMU's emulated SVM, the whole test machine with it.
func TestTripleFaultEndsAll(t *testing.T) {
	t.Setenv("FIRECRACKER_QEMU_ACCEL", "tcg")
	g := bootGuest(t, "")
	if _, err := io.WriteString(g.in, "t"); err != nil {
		t.Fatal(err)
	}
	if err := g.cmd.Wait(); err != nil {
		t.Fatalf("after a triple fault: %v\n%s", err, g.log())
	}
	g.qemuEnds()
}

func TestKillOfTheVMMEndsQEMU(t *testing.T) {
	g := bootGuest(t, "")
	if err := g.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	g.qemuEnds()
	for _, name := range g.left() {
		if name != "api.sock" && name != "v.sock" {
			t.Errorf("left: %s", name)
		}
	}
}

func TestSignalsEndAllInOrder(t *testing.T) {
	for s, code := range map[syscall.Signal]int{syscall.SIGTERM: 143, syscall.SIGINT: 130, syscall.SIGHUP: 156} {
		g := bootGuest(t, "")
		if err := g.cmd.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
		var exit *exec.ExitError
		if err := g.cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != code {
			t.Errorf("%v: %v, want code %d", s, err, code)
		}
		g.qemuEnds()
		if left := g.left(); len(left) != 1 || left[0] != "api.sock" {
			t.Errorf("%v: left: %q", s, left)
		}
	}
}

func TestDeathOfQEMUIsTold(t *testing.T) {
	g := bootGuest(t, "")
	if err := unix.PidfdSendSignal(g.qemuFD, unix.SIGKILL, nil, 0); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := g.cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("ends with %v, want code 1", err)
	}
	if log := g.log(); !strings.Contains(log, "QEMU ended (signal: killed)") {
		t.Errorf("log: %s", log)
	}
}

func TestPausedGuestStillEndsWithTheVMM(t *testing.T) {
	g := bootGuest(t, "")
	a, err := send(filepath.Join(g.dir, "api.sock"), patch("/vm", `{"state":"Paused"}`), place{dir: g.dir, tap: tapName})
	if err != nil || a.Status != 204 {
		t.Fatalf("pause: %v %+v", err, a)
	}
	if err := g.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = g.cmd.Wait() // the signal's code
	g.qemuEnds()
}

func TestFaultsOfTheMachineAreTold(t *testing.T) {
	for name, test := range map[string]struct{ extra, env, want string }{
		"QEMU missing":   {env: "FIRECRACKER_QEMU_BINARY=/no/such/qemu", want: "find QEMU"},
		"QEMU unusable":  {env: "FIRECRACKER_QEMU_BINARY=/bin/false", want: "QEMU ended (exit status 1)"},
		"unknown accel":  {env: "FIRECRACKER_QEMU_ACCEL=foo", want: "auto, tcg or kvm"},
		"no such device": {extra: `,"network-interfaces":[{"iface_id":"a","host_dev_name":"a-name-much-too-long"}]`, want: "Invalid interface name"},
	} {
		t.Run(name, func(t *testing.T) {
			vmm := emulator(t)
			dir := t.TempDir()
			if err := prepare(dir); err != nil {
				t.Fatal(err)
			}
			config := `{"boot-source":{"kernel_image_path":"` + dir + `/vmlinux"},"drives":[]` + test.extra + `}`
			path := filepath.Join(dir, "config.json")
			if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), stepTimeout)
			defer cancel()
			cmd := exec.CommandContext(ctx, vmm, "--no-api", "--config-file", path)
			cmd.Env = append(os.Environ(), test.env)
			out, err := cmd.CombinedOutput()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(string(out), test.want) {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
}

func TestEleventhConnectionIsTurnedAway(t *testing.T) {
	vmm, _ := binary(t)
	dir, err := os.MkdirTemp("", "vmm-") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	p, err := StartProcess(t.Context(), vmm, dir, "--no-seccomp")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
	})
	const limit = 10
	ask := func(conn net.Conn) (int, string) {
		t.Helper()
		if err := conn.SetDeadline(time.Now().Add(stepTimeout)); err != nil {
			t.Fatal(err)
		}
		// The one that is turned away may be closed before it has asked.
		_, _ = conn.Write(get("/version").request(place{dir: dir, tap: tapName}))
		answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		body, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		return answer.StatusCode, string(body)
	}
	for k := range limit + 1 {
		conn, err := net.Dial("unix", p.Socket)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		status, body := ask(conn)
		switch {
		case k < limit && status != http.StatusOK:
			t.Fatalf("connection %d: %d %s", k, status, body)
		case k == limit && (status != http.StatusServiceUnavailable || body != `{ "error": "Too many open connections" }`):
			t.Fatalf("connection %d: %d %s", k, status, body)
		}
	}
}
