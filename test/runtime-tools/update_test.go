package runtimetools

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// limits are what the guest holds of a container's: processor time, memory and processes.
const limits = "cd /sys/fs/cgroup; echo $(cat cpu.max cpu.max.burst memory.max pids.max)"

// tooManyProcesses is a limit that no kernel takes: one more than PID_MAX_LIMIT, 4 Mi.
const tooManyProcesses = "4194305"

// held is what a container's guest holds now.
func (c *container) held() string {
	c.t.Helper()
	return strings.TrimSpace(string(ask(c.t, c.rt, c.dir, "exec", c.id, "sh", "-c", limits)))
}

// update changes limits, by flags.
func (c *container) update(flags ...string) {
	c.t.Helper()
	ask(c.t, c.rt, c.dir, append(append([]string{"update"}, flags...), c.id)...)
}

// refusesUpdate expects that limits are refused with all of these texts, and returns all that is said.
func (c *container) refusesUpdate(flags []string, texts ...string) string {
	c.t.Helper()
	out, err := exec.Command(c.rt, append(append([]string{"update"}, flags...), c.id)...).CombinedOutput()
	for _, text := range texts {
		if err == nil || !strings.Contains(string(out), text) {
			c.t.Errorf("update %q: %v, %s; want it refused with %q", flags, err, out, text)
		}
	}
	return string(out)
}

func TestUpdate(t *testing.T) {
	c := create(t, runtime(t), "update", func(s *specs.Spec) {
		s.Process.Args = []string{"sh", "-c", limits + "; exec sleep 3600"}
		s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: new(int64(100 << 20))}
		s.Linux.Resources.CPU = &specs.LinuxCPU{Quota: new(int64(30_000)), Period: new(uint64(50_000)), Burst: new(uint64(10_000))}
	})
	// Before the start: the guest is as large as it is, and the process finds what was asked for last.
	c.refusesUpdate([]string{"--memory", "200m", "--cpu-quota", "60000"}, "linux.resources.memory.limit 209715200", "linux.resources.cpu.quota 60000")
	c.refusesUpdate([]string{"--cpu-quota", "500"}, "linux.resources.cpu.quota: 500; it is at least 1000")
	c.update("--memory", "90m", "--pids-limit", "50")
	c.update("--cpu-quota", "20000")
	c.do("start")
	c.awaitOutput("20000 50000 10000 94371840 50\n")

	c.update("--cpu-period", "40000", "--memory", "80m")
	want := "20000 40000 10000 83886080 50"
	if got := c.held(); got != want {
		t.Errorf("the guest holds %s, want %s", got, want)
	}
	// The guest alone holds the number of processes, and takes the other limits.
	before := c.record()
	c.refusesUpdate([]string{"--cpu-quota", "15000", "--cpu-burst", "0", "--memory", "70m", "--pids-limit", tooManyProcesses}, "pids.max")
	if got := c.held(); got != want {
		t.Errorf("after an update that has failed the guest holds %s, want %s", got, want)
	}
	if after := c.record(); after != before {
		t.Errorf("an update that has failed changes the container's state\n%s\n%s", before, after)
	}
	c.update("--cpu-burst", "15000", "--cpu-idle", "1")
	c.update("--cpu-quota", "25000", "--cpu-burst", "25000", "--kernel-memory", "1m")
	more := "cd /sys/fs/cgroup; echo $(cat cpu.max cpu.max.burst cpu.idle)"
	if got := strings.TrimSpace(string(ask(t, c.rt, c.dir, "exec", c.id, "sh", "-c", more))); got != "25000 40000 25000 1" {
		t.Errorf("with a burst and idle the guest holds %s", got)
	}
	c.update("--cpu-idle", "0", "--cpu-share", "512", "--cpu-burst", "0")
	if got := strings.TrimSpace(string(ask(t, c.rt, c.dir, "exec", c.id, "sh", "-c", more+" $(cat cpu.weight)"))); got != "25000 40000 0 0 59" {
		t.Errorf("with neither of them the guest holds %s", got)
	}
	c.update("--cpu-idle", "1") // with the shares there were: the kernel takes no weight of it, when a change is undone either
	if out := c.refusesUpdate([]string{"--cpu-period", "50000", "--pids-limit", tooManyProcesses}, "pids.max"); strings.Contains(out, "cpu.weight") {
		t.Errorf("the undo of a change of one that is idle fails: %s", out)
	}
	none := c.hostReservation()
	c.update("--memory-reservation", "30m")
	if got := c.hostReservation(); got == none {
		t.Errorf("with a reservation the host holds %s, as without", got)
	}
	c.update("--memory-reservation", "-1")
	if got := c.hostReservation(); got != none {
		t.Errorf("without a reservation the host holds %s, want %s", got, none)
	}
	c.refusesUpdate([]string{"--cpu-rt-runtime", "1000"}, "linux.resources.cpu.realtimeRuntime", "leave it out")
	c.refusesUpdate([]string{"--l3-cache-schema", "x"}, "resctrl")
	c.do("kill", "KILL")
	c.awaitStopped()
	c.refusesUpdate([]string{"--memory", "80m"}, "container not running")
}

// record is what is kept of a container's resources on the host.
func (c *container) record() string {
	c.t.Helper()
	resources := c.hostCgroup().Options.Resources
	if len(resources) == 0 {
		c.t.Fatal("the container has no resources on the host")
	}
	return string(resources)
}

// hostReservation is the reservation of memory that the host holds.
func (c *container) hostReservation() string {
	c.t.Helper()
	paths := c.hostCgroup().Paths
	file := filepath.Join(paths[""], "memory.low")
	if v1, ok := paths["memory"]; ok {
		file = filepath.Join(v1, "memory.soft_limit_in_bytes")
	}
	text, err := os.ReadFile(file)
	if err != nil {
		c.t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

// hostCgroup is what is kept of a container's cgroup on the host.
type hostCgroup struct {
	Options struct{ Resources json.RawMessage }
	Paths   map[string]string
}

func (c *container) hostCgroup() hostCgroup {
	c.t.Helper()
	files, err := filepath.Glob(filepath.Join(filepath.Dir(c.rt), "d", "containers", "*", "state.json"))
	if err != nil || len(files) != 1 {
		c.t.Fatalf("records: %q, %v", files, err)
	}
	text, err := os.ReadFile(files[0])
	if err != nil {
		c.t.Fatal(err)
	}
	var record struct{ Bundle struct{ Cgroup hostCgroup } }
	if err := json.Unmarshal(text, &record); err != nil {
		c.t.Fatalf("%v: %s", err, text)
	}
	return record.Bundle.Cgroup
}
