//go:build e2e

package engines

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/runcvm/runcvm/internal/hostcgroup"
	"github.com/runcvm/runcvm/test/engines/engine"
)

// limited are the options of a container of which checkCgroup knows what its cgroup holds.
var limited = []string{"--memory", "100m", "--cpus", "0.5"}

// cgroupFile is a file of either version of cgroups, and what it may have.
type cgroupFile struct {
	v1, v2 string
	want   []string
}

// cgroupFiles are what the host holds of a limited container: under RunCVM its guest's memory and what the VMM needs beside it, its
// processor time with the VMM's margin, and a bound on the VMM's threads.
func cgroupFiles(runtime string) []cgroupFile {
	const mebibyte, container, guest = 1 << 20, 100 << 20, 232 << 20
	if runtime == engine.Runc {
		return []cgroupFile{
			{"memory.limit_in_bytes", "memory.max", []string{fmt.Sprint(container)}},
			{"cpu.cfs_quota_us", "cpu.max", []string{"50000", "50000 100000"}},
		}
	}
	var memory []string
	for _, emulated := range []bool{true, false} {
		o := hostcgroup.OverheadOf(emulated)
		memory = append(memory, fmt.Sprint(guest+o.Fixed+guest/o.Part))
	}
	return []cgroupFile{
		{"memory.limit_in_bytes", "memory.max", memory},
		{"cpu.cfs_quota_us", "cpu.max", []string{"60000", "60000 100000"}},
		{"pids.max", "pids.max", []string{"1024"}},
	}
}

// testCgroup looks at the cgroup that an engine has the runtime make by the files.
func testCgroup(t *testing.T, e *engine.Engine, runtime string) {
	name := "cgroup-" + runtime
	t.Cleanup(func() { e.Run("rm", "-f", name) })
	args := append(append([]string{"run", "-d", "--name", name}, limited...), engine.Busybox, "sleep", "1000")
	e.MustRun(e.WithRuntime(runtime, args...)...)
	checkCgroup(t, e, name, runtime)
}

// checkCgroup expects the container's process, and under RunCVM the VMM too, in the container's cgroup, which holds the limits.
func checkCgroup(t *testing.T, e *engine.Engine, name, runtime string) {
	t.Helper()
	id, pid := e.MustRun("inspect", "-f", "{{.Id}}", name), e.ContainerPid(name)
	ours := func(path string) bool { // Podman's monitor has one of its own
		return strings.Contains(filepath.Base(path), id) && !strings.Contains(path, "conmon")
	}
	for _, file := range cgroupFiles(runtime) {
		seen := 0
		for _, dir := range e.Cgroups() {
			for _, name := range slices.Compact([]string{file.v1, file.v2}) {
				b, err := os.ReadFile(filepath.Join(dir, name))
				if err != nil || !ours(dir) {
					continue
				}
				seen++
				if got := strings.TrimSpace(string(b)); !slices.Contains(file.want, got) {
					t.Errorf("%s/%s is %s, want one of %q", dir, name, got, file.want)
				}
				checkMembers(t, e, dir, pid, runtime)
			}
		}
		if seen != 1 {
			t.Errorf("%d cgroups of the container have %s or %s, want one of %q", seen, file.v1, file.v2, e.Cgroups())
		}
	}
}

// checkMembers expects a container's process in a cgroup, and under RunCVM a VMM.
func checkMembers(t *testing.T, e *engine.Engine, dir string, pid int, runtime string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		t.Fatal(err)
	}
	var commands []string
	all := e.Processes()
	for member := range strings.FieldsSeq(string(b)) {
		n, _ := strconv.Atoi(member)
		commands = append(commands, all[n])
	}
	isVMM := func(command string) bool { return strings.Contains(command, "--api-sock") }
	if !slices.Contains(strings.Fields(string(b)), fmt.Sprint(pid)) || slices.ContainsFunc(commands, isVMM) != (runtime == engine.RunCVM) {
		t.Errorf("in %s are %q; want process %d, and a VMM if it is RunCVM's", dir, commands, pid)
	}
}
