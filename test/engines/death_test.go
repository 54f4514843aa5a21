//go:build e2e

package engines

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/runcvm/runcvm/test/engines/engine"
	"github.com/runcvm/runcvm/test/harness"
)

// testDeath kills what a container consists of on the host with SIGKILL: its process, which for RunCVM is the monitor, or what that has
// started, which is the VMM. The engine learns of the end, nothing of it is left, and what was written and synced is there at the next
// start.
func testDeath(t *testing.T, e *engine.Engine, runtime string) {
	for _, victim := range []string{"process", "children"} {
		t.Run(victim, func(t *testing.T) {
			e := e.For(t)
			name := "death-" + victim + "-" + runtime
			t.Cleanup(func() { e.Run("rm", "-f", name) })
			e.MustRun(e.WithRuntime(runtime, "run", "-d", "--name", name, engine.Busybox, "sh", "-c",
				"echo written >>/file; sync; cat /file; while :; do sleep 1000; done; exit 0")...)
			expectLog(t, e, name, "written\n")
			pid := e.ContainerPid(name)
			victims := []int{pid}
			if victim == "children" {
				victims = harness.Children(pid)
				if runtime == engine.Runc {
					victims = append(victims, pid) // a shell outlives its sleep
				}
			}
			if len(victims) == 0 {
				t.Fatalf("process %d has no children", pid)
			}
			for _, pid := range victims {
				harness.Kill(t, pid, syscall.SIGKILL)
			}
			harness.Eventually(t, harness.Patience, func() error {
				if got := e.MustRun("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", name); got != "exited 137" {
					return fmt.Errorf("the container is %q, want exited 137", got)
				}
				return nil
			})
			e.CheckLeftBut(name)
			e.MustRun("start", name)
			expectLog(t, e, name, "written\nwritten\nwritten\n")
		})
	}
}

// testSecondContainer expects that a second container of an image finds the image's disk built.
func testSecondContainer(t *testing.T, e *engine.Engine, runtime string) {
	if runtime != engine.RunCVM {
		return // the control builds none
	}
	run := func() { e.MustRun(e.WithRuntime(runtime, "run", "--rm", engine.Busybox, "true")...) }
	run()
	before := e.ImageDisks()
	if before == "" {
		t.Fatal("there is no image disk")
	}
	run()
	if after := e.ImageDisks(); after != before {
		t.Errorf("image disks before:\n%s\nafter:\n%s", before, strings.TrimSpace(after))
	}
}
