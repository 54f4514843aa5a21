//go:build e2e

package cgroup

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/hostcgroup"
)

func TestReportOOM(t *testing.T) {
	drivers(t, func(t *testing.T, o hostcgroup.Options) {
		// As large as a guest: what is reported is not to cost as much.
		o.GuestMemory = 4 << 30
		c, p := enter(t, o)
		watch := watchOOM(t, c)
		if n := watch(0); n != 0 {
			t.Fatalf("%d events before any", n)
		}
		before := value(t, c, "memory", "memory.limit_in_bytes", "memory.max")
		state, err := json.Marshal(c.State())
		if err != nil {
			t.Fatal(err)
		}
		p.ask("oom " + string(state))
		if n := watch(patience); n == 0 {
			t.Error("who watches the cgroup has seen nothing")
		}
		if kills := value(t, c, "memory", "memory.oom_control", "memory.events"); !strings.Contains(kills, "oom_kill 1") {
			t.Errorf("the kernel's count: %q", kills)
		}
		if after := value(t, c, "memory", "memory.limit_in_bytes", "memory.max"); after != before {
			t.Errorf("the limit was %s and is %s", before, after)
		}
		if peak := value(t, c, "memory", "memory.max_usage_in_bytes", "memory.current"); len(peak) > len("99999999") {
			t.Errorf("it took %s bytes", peak)
		}
		if pids := processes(t, c); len(pids) != 1 || pids[0] != p.cmd.Process.Pid {
			t.Errorf("in the cgroup are %v", pids)
		}
	})
}

// watchOOM watches as engines do, and returns what waits for an event and says how many there were.
func watchOOM(t *testing.T, c *hostcgroup.Cgroup) func(within time.Duration) uint64 {
	t.Helper()
	dir := directory(c, "memory")
	if cgroups.IsCgroup2UnifiedMode() {
		return watchEvents(t, dir)
	}
	control, err := os.Open(filepath.Join(dir, "memory.oom_control"))
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { control.Close(); unix.Close(fd) })
	line := fmt.Sprintf("%d %d", fd, control.Fd())
	if err := os.WriteFile(filepath.Join(dir, "cgroup.event_control"), []byte(line), 0); err != nil {
		t.Fatal(err)
	}
	return func(within time.Duration) uint64 {
		if !readable(t, fd, within) {
			return 0
		}
		var count [8]byte
		if _, err := unix.Read(fd, count[:]); err != nil {
			t.Fatal(err)
		}
		return 1
	}
}

// watchEvents is the same of cgroup v2: a change of memory.events, and its oom_kill.
func watchEvents(t *testing.T, dir string) func(within time.Duration) uint64 {
	t.Helper()
	file := filepath.Join(dir, "memory.events")
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if _, err := unix.InotifyAddWatch(fd, file, unix.IN_MODIFY); err != nil {
		t.Fatal(err)
	}
	return func(within time.Duration) uint64 {
		for readable(t, fd, within) {
			if _, err := unix.Read(fd, make([]byte, 4096)); err != nil {
				t.Fatal(err)
			}
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(b), "oom_kill 1") {
				return 1
			}
		}
		return 0
	}
}

func readable(t *testing.T, fd int, within time.Duration) bool {
	t.Helper()
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(within.Milliseconds()))
	if err != nil {
		t.Fatal(err)
	}
	return n > 0
}
