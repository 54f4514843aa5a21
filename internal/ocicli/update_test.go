package ocicli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// runcUpdateFlags are those of runc 1.5's update.go.
var runcUpdateFlags = []string{"resources", "blkio-weight", "cpu-period", "cpu-quota", "cpu-burst", "cpu-share", "cpu-rt-period", "cpu-rt-runtime",
	"cpuset-cpus", "cpuset-mems", "kernel-memory", "kernel-memory-tcp", "memory", "cpu-idle", "memory-reservation", "memory-swap", "pids-limit",
	"l3-cache-schema", "mem-bw-schema"}

// update parses flags of update.
func update(t *testing.T, args ...string) *updateFlags {
	t.Helper()
	f, set := &updateFlags{}, pflag.NewFlagSet("update", pflag.ContinueOnError)
	f.add(set)
	if err := set.Parse(args); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestUpdateHasAllOfRuncsFlags(t *testing.T) {
	f := update(t)
	for _, name := range runcUpdateFlags {
		if f.set.Lookup(name) == nil {
			t.Errorf("there is no --%s", name)
		}
	}
}

func TestUpdateFlags(t *testing.T) {
	r, err := update(t, "--cpu-burst", "0", "--cpu-idle=1", "--cpu-quota=-1", "--memory=1g", "--memory-swap=-1", "--kernel-memory=1m", "--pids-limit", "7",
		"--cpu-rt-runtime", "5").read(nil)
	if err != nil {
		t.Fatal(err)
	}
	c, m := r.CPU, r.Memory
	if c.Burst == nil || *c.Burst != 0 || c.Idle == nil || *c.Idle != 1 || *c.Quota != -1 || *c.RealtimeRuntime != 5 {
		t.Errorf("processors: %+v", c)
	}
	if *m.Limit != 1<<30 || *m.Swap != -1 || *m.Kernel != 1<<20 || m.KernelTCP != nil || *r.Pids.Limit != 7 { //nolint:staticcheck // runc has the flag
		t.Errorf("memory: %+v", m)
	}
	if r, err := update(t).read(nil); err != nil || r.CPU.Burst != nil || r.CPU.Idle != nil {
		t.Errorf("without flags: %+v, %v", r, err)
	}
	for _, name := range []string{"l3-cache-schema", "mem-bw-schema"} {
		if _, err := update(t, "--"+name, "x").read(nil); err == nil || !strings.Contains(err.Error(), "--"+name+": put the VMM's cgroup") {
			t.Errorf("--%s: %v", name, err)
		}
	}
}

func TestUpdateByAFile(t *testing.T) {
	const text = `{"cpu": {"idle": 0, "burst": 7}, "memory": {"kernel": 5}}`
	file := filepath.Join(t.TempDir(), "resources")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for from, stdin := range map[string]string{file: "", "-": text} {
		r, err := update(t, "-r", from).read(strings.NewReader(stdin))
		if err != nil {
			t.Fatal(err)
		}
		if c := r.CPU; c.Idle == nil || *c.Idle != 0 || *c.Burst != 7 || !asked(r.Memory.Kernel) { //nolint:staticcheck // engines may send it
			t.Errorf("%s: %+v", from, r)
		}
	}
	for _, stdin := range []string{"", "{", strings.Repeat(" ", maxResources) + "{}"} {
		if r, err := update(t, "-r", "-").read(strings.NewReader(stdin)); err == nil {
			t.Errorf("%.10q is %+v", stdin, r)
		}
	}
}
