//go:build e2e

package engine

import (
	"bufio"
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/test/harness"
)

//go:embed host.sh
var hostScript []byte

// Host is a set of namespaces (processes, mounts, network, cgroups, names, IPC) for one engine, whose end is the end of all that runs
// there. Its /run, /etc and /var/lib are its own; other files are the machine's.
type Host struct {
	t testing.TB
	// Dir is on the machine's disk, with the same path on both sides, and goes with the test.
	Dir string
	// Pid is that of the first process, as the machine sees it.
	Pid  int
	name string
	// hung is set once a command has not ended in time.
	hung *atomic.Bool
	// witness tells what the engine is at, for the evidence of what hangs; nil where there is no daemon.
	witness func() string
	// own are the processes and cgroups that are there from the beginning.
	own map[string]bool
}

// The first process of a host: one that only waits, or systemd, whose cgroup driver an engine can then have.
const (
	noInit  = "none"
	systemd = "systemd"
)

// cgroupPrefix begins the name of each host's cgroups; the test's pid and a number follow.
const cgroupPrefix = "runcvm-engines-"

var hosts atomic.Int32

// NewHost makes the namespaces. They end with the test, or with its process.
func NewHost(t testing.TB) *Host {
	t.Helper()
	return newHost(t, noInit)
}

func newHost(t testing.TB, init string) *Host {
	t.Helper()
	removeStale(t)
	h := &Host{t: t, hung: new(atomic.Bool), Dir: shortTempDir(t), name: fmt.Sprintf("%s%d-%d", cgroupPrefix, os.Getpid(), hosts.Add(1))}
	script := filepath.Join(h.Dir, "host.sh")
	if err := os.WriteFile(script, hostScript, 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("bash", script, h.name, h.Dir, init)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdin, err1 := cmd.StdinPipe()
	stdout, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	h.Pid = cmd.Process.Pid
	t.Cleanup(func() {
		_ = stdin.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if err := removeCgroups(h.name); err != nil {
			t.Error(err)
		}
	})
	line, _ := bufio.NewReader(stdout).ReadString('\n')
	if line != "ready\n" {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		t.Fatalf("an engine's host did not come up: %s", stderr.String())
	}
	if init == systemd {
		harness.Eventually(t, harness.Patience, func() error {
			_, err := h.Run("systemctl", "is-active", "engine-host.target")
			return err
		})
	}
	own := map[string]bool{}
	for pid := range h.Processes() {
		own[strconv.Itoa(pid)] = true
	}
	for _, path := range h.Cgroups() {
		own[path] = true
	}
	h.own = own
	return h
}

// shortTempDir is t.TempDir, but for the length: sockets lie in there, whose paths have 108 bytes at most.
func shortTempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "eng-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// InNetwork calls a function by a thread that is in a network namespace: the host's own, or one that ip-netns knows there by its name.
// Sockets that it makes remain there.
func (h *Host) InNetwork(name string, do func() error) error {
	path := fmt.Sprintf("/proc/%d/ns/net", h.Pid)
	if name != "" {
		path = fmt.Sprintf("/proc/%d/root/run/netns/%s", h.Pid, name)
	}
	namespace, err := os.Open(path)
	if err != nil {
		return err
	}
	defer namespace.Close()
	done := make(chan error, 1)
	go func() {
		// The thread ends with this function: it is never unlocked.
		runtime.LockOSThread()
		if err := unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter %s: %w", path, err)
			return
		}
		done <- do()
	}()
	return <-done
}

// Processes are those of the host but its own, as the machine sees them.
func (h *Host) Processes() map[int]string {
	own, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", h.Pid))
	all := map[int]string{}
	if err != nil {
		return all
	}
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		pid, _ := strconv.Atoi(filepath.Base(dir))
		if pid == h.Pid || h.own[filepath.Base(dir)] || !inNamespace(pid, own) || !harness.Alive(pid) {
			continue
		}
		command, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		all[pid] = strings.TrimSpace(strings.ReplaceAll(string(command), "\x00", " "))
	}
	return all
}

// inNamespace says whether a process is in a pid namespace or in one below it.
func inNamespace(pid int, want string) bool {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/pid", pid))
	if err != nil {
		return false
	}
	for {
		var st unix.Stat_t
		if unix.Fstat(int(ns.Fd()), &st) == nil && fmt.Sprintf("pid:[%d]", st.Ino) == want {
			ns.Close()
			return true
		}
		parent, err := unix.IoctlRetInt(int(ns.Fd()), unix.NS_GET_PARENT)
		ns.Close()
		if err != nil {
			return false // the first one, or not to be seen from here
		}
		ns = os.NewFile(uintptr(parent), "pid namespace")
	}
}

// Cgroups are the host's cgroups below its first, in all hierarchies, but those that were there from the beginning.
func (h *Host) Cgroups() []string {
	var all []string
	for _, mount := range cgroupMounts() {
		root := filepath.Join(mount, h.name)
		_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() && path != root && path != filepath.Join(root, "init") && !h.own[path] {
				all = append(all, path)
			}
			return nil
		})
	}
	return all
}

func cgroupMounts() []string {
	b, _ := os.ReadFile("/proc/self/mounts")
	var all []string
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 2 && (f[2] == "cgroup" || f[2] == "cgroup2") {
			all = append(all, f[1])
		}
	}
	return all
}

// removeCgroups removes a cgroup in each hierarchy with all below it. Its processes have been killed but may take a moment.
func removeCgroups(name string) error {
	deadline := time.Now().Add(harness.Soon)
	for {
		var errs []error
		for _, mount := range cgroupMounts() {
			var dirs []string
			_ = filepath.WalkDir(filepath.Join(mount, name), func(path string, d fs.DirEntry, err error) error {
				if err == nil && d.IsDir() {
					dirs = append(dirs, path)
				}
				return nil
			})
			for _, dir := range slices.Backward(dirs) {
				if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
					errs = append(errs, fmt.Errorf("rmdir %s: %w", dir, err))
				}
			}
		}
		if len(errs) == 0 || time.Now().After(deadline) {
			return errors.Join(errs...)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// removeStale removes the cgroups that test processes which were killed have left.
func removeStale(t testing.TB) {
	t.Helper()
	names := map[string]bool{}
	for _, mount := range cgroupMounts() {
		left, _ := filepath.Glob(filepath.Join(mount, cgroupPrefix+"*"))
		for _, path := range left {
			names[filepath.Base(path)] = true
		}
	}
	for name := range names {
		pid, _, _ := strings.Cut(strings.TrimPrefix(name, cgroupPrefix), "-")
		if _, err := os.Stat("/proc/" + pid); err == nil {
			continue
		}
		if err := removeCgroups(name); err != nil {
			t.Log(err)
		}
	}
}
