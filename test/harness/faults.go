//go:build e2e

package harness

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var (
	// Patience is how long a guest may take for what it does in some seconds on an idle machine: the machine may be emulated
	// itself, and busy.
	Patience = patiently(4 * time.Minute)
	// Soon is how long that may take which does not wait for any guest, on such a machine.
	Soon = patiently(30 * time.Second)
)

// patiently makes more of a time on a machine that is slower still, as one is that emulates the processor on which it has KVM:
// RUNCVM_TEST_SLOWNESS, a number, says by how much.
func patiently(d time.Duration) time.Duration {
	v := os.Getenv("RUNCVM_TEST_SLOWNESS")
	if v == "" {
		return d
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 {
		panic(fmt.Sprintf("RUNCVM_TEST_SLOWNESS=%q is no number of at least 1", v))
	}
	return time.Duration(n * int(d))
}

// Program is the path of a program of test/programs, which make test-programs builds beside runcvm.
func Program(t testing.TB, name string) string {
	t.Helper()
	path := filepath.Join(Bin(t), "test", name)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v: run the e2e suites by make test-e2e", err)
	}
	return path
}

// Emulated says whether the VMM under test is firecracker-qemu.
func Emulated() bool {
	vmm := os.Getenv("RUNCVM_VMM")
	return vmm == "" || filepath.Base(vmm) == "firecracker-qemu"
}

// Running is a command that runs.
type Running struct {
	t              testing.TB
	cmd            *exec.Cmd
	stdout, stderr bytes.Buffer
	ended          chan struct{}
}

// Start runs runcvm with the arguments and without standard input, and returns at once.
func (h *Host) Start(args ...string) *Running {
	h.t.Helper()
	r := &Running{t: h.t, cmd: h.Command(args...), ended: make(chan struct{})}
	r.cmd.Stdout, r.cmd.Stderr = &r.stdout, &r.stderr
	if err := r.cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	go func() {
		_ = r.cmd.Wait()
		close(r.ended)
	}()
	h.t.Cleanup(func() {
		_ = r.cmd.Process.Kill() // a test that failed
		<-r.ended
	})
	return r
}

// Signal sends a signal to the command.
func (r *Running) Signal(s syscall.Signal) {
	r.t.Helper()
	if err := r.cmd.Process.Signal(s); err != nil {
		r.t.Fatal(err)
	}
}

// Wait returns how the command ended, which it must within this time. The code of a command that was ended by a signal is
// -1.
func (r *Running) Wait(within time.Duration) Result {
	r.t.Helper()
	select {
	case <-r.ended:
	case <-time.After(within):
		r.t.Fatalf("the command has not ended within %s", within)
	}
	return Result{r.stdout.String(), r.stderr.String(), r.cmd.ProcessState.ExitCode()}
}

// Record is what runcvm ps tells of a container.
type Record struct {
	ID       string `json:"id"`
	Name     string `json:"name"`
	State    string `json:"state"`
	ExitCode int    `json:"exit_code"`
	Error    string `json:"error"`
	Pid      int    `json:"pid"`
	LogLost  int64  `json:"log_lost"`
}

// Records are those of all containers.
func (h *Host) Records() []Record {
	h.t.Helper()
	var all []Record
	for line := range strings.Lines(h.MustRun("ps", "-a", "--format", "{{json .Record}}")) {
		var r Record
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			h.t.Fatal(err)
		}
		all = append(all, r)
	}
	return all
}

// Record is that of the container with this name, which must be there.
func (h *Host) Record(name string) Record {
	h.t.Helper()
	for _, r := range h.Records() {
		if r.Name == name {
			return r
		}
	}
	h.t.Fatalf("no container %s", name)
	return Record{}
}

// AwaitState waits until the container is in this state, and returns its record.
func (h *Host) AwaitState(name, state string) (record Record) {
	h.t.Helper()
	Eventually(h.t, Patience, func() error {
		for _, record = range h.Records() {
			if record.Name == name && record.State == state {
				return nil
			}
		}
		return fmt.Errorf("container %s is not %s: %+v", name, state, h.Records())
	})
	return record
}

// VMM is the process id of a container's VMM: the only child of its monitor.
func (h *Host) VMM(r Record) int {
	h.t.Helper()
	var vmm int
	Eventually(h.t, Patience, func() error {
		children := Children(r.Pid)
		if len(children) != 1 {
			return fmt.Errorf("the monitor %d has the children %v", r.Pid, children)
		}
		vmm = children[0]
		return nil
	})
	return vmm
}

// Children are the processes whose parent is pid.
func Children(pid int) []int {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	var children []int
	for _, path := range stats {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		// The name, in parentheses, may hold anything; state and parent follow it (proc(5)).
		fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		if len(fields) > 1 && fields[1] == strconv.Itoa(pid) {
			child, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			children = append(children, child)
		}
	}
	return children
}

// Kill sends a signal to any process.
func Kill(t testing.TB, pid int, s syscall.Signal) {
	t.Helper()
	if err := unix.Kill(pid, s); err != nil {
		t.Fatalf("signal %s to %d: %v", s, pid, err)
	}
}

// Alive says whether a process lives; a zombie does not.
func Alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.HasPrefix(string(b[bytes.LastIndexByte(b, ')')+1:]), " Z")
}

// NewOnFullDisk returns a host whose containers, and what else the names say, lie on a file system of this size of their
// own, in MiB; the rest is shared with the other tests'.
func NewOnFullDisk(t testing.TB, mebibytes int, own ...string) *Host {
	t.Helper()
	base := New(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%dm", mebibytes)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		Eventually(t, settle, func() error {
			if err := unix.Unmount(dir, 0); !errors.Is(err, unix.EINVAL) {
				return err
			}
			return nil
		})
	})
	h := &Host{t: t, DataDir: filepath.Join(dir, "data"), RunDir: filepath.Join(t.TempDir(), "run")}
	t.Cleanup(h.checkLeaks)
	if err := os.Mkdir(h.DataDir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"images", "disks", "kernels"} {
		if strings.Contains(strings.Join(own, " "), name) {
			continue
		}
		shared := filepath.Join(base.DataDir, name)
		if err := errors.Join(os.MkdirAll(shared, 0o700), os.Symlink(shared, filepath.Join(h.DataDir, name))); err != nil {
			t.Fatal(err)
		}
	}
	return h
}
