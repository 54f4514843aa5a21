//go:build e2e

package cgroup

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/systemd"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/runcvm/runcvm/internal/hostcgroup"
)

// parent has the cgroups of these tests.
const parent = "/runcvm-test-cgroup"

const mebibyte = 1 << 20

// limited has a container's resources with limits that a microVM would not live under.
func limited() *specs.LinuxResources {
	return &specs.LinuxResources{
		Memory:  &specs.LinuxMemory{Limit: new(int64(8 * mebibyte)), Swap: new(int64(8 * mebibyte))},
		CPU:     &specs.LinuxCPU{Shares: new(uint64(512)), Quota: new(int64(50_000)), Period: new(uint64(100_000)), Cpus: "0"},
		Pids:    &specs.LinuxPids{Limit: new(int64(1))},
		Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}},
	}
}

// options are of a cgroup of the test's own, made by the files or by systemd.
func options(t *testing.T, bySystemd bool) hostcgroup.Options {
	t.Helper()
	id := fmt.Sprint("test-", os.Getpid(), "-", time.Now().UnixNano())
	o := hostcgroup.Options{
		ID: id, Path: parent + "/" + id, Resources: limited(), GuestMemory: 96 * mebibyte,
		Overhead: hostcgroup.Overhead{Fixed: 32 * mebibyte},
	}
	if bySystemd {
		o.Systemd, o.Path = true, "runcvmtest.slice:test:"+id
	}
	return o
}

// drivers runs a test with each way to make a cgroup that this machine has.
func drivers(t *testing.T, test func(t *testing.T, o hostcgroup.Options)) {
	t.Helper()
	t.Run("cgroupfs", func(t *testing.T) { test(t, options(t, false)) })
	if systemd.IsRunningSystemd() {
		t.Run("systemd", func(t *testing.T) { test(t, options(t, true)) })
	}
}

func TestEnter(t *testing.T) {
	drivers(t, func(t *testing.T, o hostcgroup.Options) {
		c, p := enter(t, o)
		t.Run("the process and its children are in every hierarchy", func(t *testing.T) {
			child, err := strconv.Atoi(p.ask("child"))
			if err != nil {
				t.Fatal(err)
			}
			if got, want := processes(t, c), []int{p.cmd.Process.Pid, child}; !slices.Equal(got, want) {
				t.Errorf("in the cgroup are %v, want %v", got, want)
			}
			threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/cgroup", p.cmd.Process.Pid))
			if err != nil || len(threads) == 0 {
				t.Fatalf("threads: %v, %v", threads, err)
			}
			for _, file := range append(threads, fmt.Sprintf("/proc/%d/cgroup", child)) {
				inside(t, file, o)
			}
		})
		t.Run("the limits are a microVM's", func(t *testing.T) {
			most := fmt.Sprint((96 + 32) * mebibyte)
			for _, test := range []struct{ controller, v1, v2, want string }{
				{"memory", "memory.limit_in_bytes", "memory.max", most},
				{"pids", "pids.max", "pids.max", "1024"},
				{"cpuset", "cpuset.cpus", "cpuset.cpus", "0"},
			} {
				if got := value(t, c, test.controller, test.v1, test.v2); got != test.want {
					t.Errorf("%s %s, want %s", test.v1, got, test.want)
				}
			}
			quota := func() string { return value(t, c, "cpu", "cpu.cfs_quota_us", "cpu.max") }
			if got := quota(); got != "-1" && got != "max 100000" {
				t.Errorf("the quota holds before the boot: %s", got)
			}
			if err := c.SetCPUQuota(); err != nil {
				t.Fatal(err)
			}
			if got := quota(); got != "60000" && got != "60000 100000" {
				t.Errorf("half a processor and the margin is %s", got)
			}
			if notes := c.Notes(); slices.ContainsFunc(notes, func(n string) bool { return !strings.Contains(n, "swap") }) {
				t.Errorf("notes: %q", notes)
			}
		})
		t.Run("a change that fails changes nothing", func(t *testing.T) { failedUpdate(t, c) })
		t.Run("another process changes them", func(t *testing.T) {
			c, err := hostcgroup.Load(c.State())
			if err != nil {
				t.Fatal(err)
			}
			change := &specs.LinuxResources{
				Memory: &specs.LinuxMemory{Limit: new(int64(16 * mebibyte))}, CPU: &specs.LinuxCPU{Quota: new(int64(200_000))},
			}
			if _, err := c.Update(change, true); err != nil {
				t.Fatal(err)
			}
			if got := value(t, c, "cpu", "cpu.cfs_quota_us", "cpu.max"); got != "220000" && got != "220000 100000" {
				t.Errorf("two processors and the margin is %s", got)
			}
		})
	})
}

// failedUpdate changes limits, the last of which the kernel does not take: a processor or a disk that there is not.
func failedUpdate(t *testing.T, c *hostcgroup.Cgroup) {
	held := func() string {
		return value(t, c, "cpu", "cpu.cfs_quota_us", "cpu.max") + ", " + value(t, c, "cpu", "cpu.shares", "cpu.weight")
	}
	before, state := held(), c.State()
	change := &specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: new(int64(70_000)), Shares: new(uint64(2048))}}
	// The last of the two is what comes after the processor time.
	if cgroups.IsCgroup2UnifiedMode() {
		change.CPU.Cpus = "4095"
	} else {
		change.BlockIO = &specs.LinuxBlockIO{ThrottleReadBpsDevice: make([]specs.LinuxThrottleDevice, 1)}
	}
	undo, err := c.Update(change, true)
	if err == nil || undo != nil {
		t.Errorf("a limit of what there is not was taken: %v", err)
	}
	if now := held(); now != before || !reflect.DeepEqual(c.State(), state) {
		t.Errorf("before the cgroup held %s, and now %s", before, now)
	}
	change.CPU.Cpus, change.BlockIO = "", nil
	if undo, err = c.Update(change, true); err != nil {
		t.Fatal(err)
	}
	if held() == before {
		t.Errorf("nothing has changed: %s", before)
	}
	if err := undo(); err != nil {
		t.Error(err)
	}
	if now := held(); now != before || !reflect.DeepEqual(c.State(), state) {
		t.Errorf("before the cgroup held %s, and after it was undone %s", before, now)
	}
}

// inside checks that a task is in the cgroup in every hierarchy that a process of its own could be in.
func inside(t *testing.T, file string, o hostcgroup.Options) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(strings.TrimSpace(string(b))) {
		if !strings.Contains(line, o.ID) {
			t.Errorf("%s: %s", file, line)
		}
	}
}

func TestOthersProcesses(t *testing.T) {
	drivers(t, func(t *testing.T, o hostcgroup.Options) {
		enter(t, o)
		second, err := hostcgroup.New(o)
		if err != nil {
			t.Fatal(err)
		}
		if err := second.Enter(startProcess(t).cmd.Process.Pid); err == nil || !strings.Contains(err.Error(), "processes already") {
			t.Errorf("a second monitor got into a cgroup: %v", err)
		}
	})
}

func TestDelete(t *testing.T) {
	t.Run("it waits for the last process", func(t *testing.T) {
		c, p := enter(t, options(t, false))
		time.AfterFunc(300*time.Millisecond, func() { _ = p.cmd.Process.Kill() })
		remove(t, c)
		gone(t, c)
		remove(t, c) // what is gone is no error
	})
	t.Run("its error names the processes that are left", func(t *testing.T) {
		c, p := enter(t, options(t, false))
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if err := c.Delete(ctx); err == nil || !strings.Contains(err.Error(), fmt.Sprint(p.cmd.Process.Pid)) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("groups below it go, too", func(t *testing.T) {
		c, p := enter(t, options(t, false))
		for _, dir := range c.State().Paths {
			if err := os.MkdirAll(filepath.Join(dir, "a", "b"), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		p.end()
		remove(t, c)
		gone(t, c)
	})
}
