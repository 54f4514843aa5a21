//go:build e2e

package engines

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/runcvm/runcvm/test/engines/engine"
	"github.com/runcvm/runcvm/test/harness"
)

// cyclesVariable is how often a container is started and stopped; make soak sets it.
const cyclesVariable = "RUNCVM_TEST_CYCLES"

// testCycles starts and stops a container again and again: nothing on the host grows.
func testCycles(t *testing.T, e *engine.Engine, runtime string) {
	cycles := 5
	if e.Kind == engine.CurrentDocker && runtime == engine.RunCVM {
		cycles = 40
	}
	if v := os.Getenv(cyclesVariable); v != "" {
		var err error
		if cycles, err = strconv.Atoi(v); err != nil {
			t.Fatalf("%s: %v", cyclesVariable, err)
		}
	}
	const name = "cycles"
	e.MustRun(e.WithRuntime(runtime, "create", "--name", name, "--stop-timeout", "60", engine.Busybox, "sh", "-c", "trap 'exit 0' TERM; echo up; while :; do sleep 0.1; done")...)
	t.Cleanup(func() { e.Run("rm", "-f", name) })
	cycle := func(n int) {
		e.MustRun("start", name)
		harness.Eventually(t, harness.Patience, func() error {
			if got := strings.Count(e.Run("logs", name).Stdout, "up\n"); got != n {
				return fmt.Errorf("%d lives in the log, want %d", got, n)
			}
			return nil
		})
		e.MustRun("stop", name)
	}
	// What the first ones leave is caches.
	const warm = 2
	for i := range warm {
		cycle(i + 1)
	}
	e.CheckLeftBut(name)
	before := measure(t, e)
	began := time.Now()
	for i := range cycles {
		cycle(warm + i + 1)
	}
	e.CheckLeftBut(name)
	t.Logf("%d cycles, %s each; before %+v, after %+v", cycles, (time.Since(began) / time.Duration(cycles)).Round(time.Millisecond), before, measure(t, e))
	// Descriptors and threads come and go by some; a leak has one or more a cycle.
	harness.Eventually(t, harness.Soon, func() error {
		now := measure(t, e)
		if now.files > before.files || now.mounts > before.mounts || now.links > before.links || now.processes > before.processes ||
			now.cgroups > before.cgroups || now.descriptors > before.descriptors+max(8, cycles/4) || now.memory > before.memory+64<<10 {
			return fmt.Errorf("before %+v, after %+v", before, now)
		}
		return nil
	})
}

// usage is what a host has at a moment; memory is the daemon's, in KiB.
type usage struct{ processes, descriptors, mounts, links, files, cgroups, memory int }

func measure(t *testing.T, e *engine.Engine) (u usage) {
	t.Helper()
	u.processes, u.cgroups = len(e.Processes()), len(e.Cgroups())
	for pid := range e.Processes() {
		fds, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		u.descriptors += len(fds)
	}
	lines := func(text string) int { return strings.Count(text, "\n") }
	mounts, err1 := os.ReadFile(fmt.Sprintf("/proc/%d/mounts", e.Pid))
	links, err2 := e.Host.Run("ip", "-o", "link")
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	u.mounts, u.links = lines(string(mounts)), lines(links)
	_ = filepath.WalkDir(e.RunCVMDir(), func(string, os.DirEntry, error) error {
		u.files++
		return nil
	})
	if e.Kind != engine.Podman {
		status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", e.DaemonPid()))
		for line := range strings.Lines(string(status)) {
			if f := strings.Fields(line); len(f) > 1 && f[0] == "VmRSS:" {
				u.memory, _ = strconv.Atoi(f[1])
			}
		}
	}
	return u
}
