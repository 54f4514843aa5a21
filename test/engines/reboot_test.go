//go:build e2e

package engines

import (
	"strings"
	"testing"

	"github.com/runcvm/runcvm/test/engines/engine"
)

// TestReboot lets a host end as by a power failure. An engine tells no runtime of it: its containers start again under their ids, with
// what they wrote before, and what is not started again is not left for ever.
func TestReboot(t *testing.T) {
	for _, kind := range kinds() {
		t.Run(string(kind), func(t *testing.T) {
			e := engine.New(t, kind, engine.Options{})
			e.LoadImages(engine.Busybox)
			for _, runtime := range runtimes {
				t.Run(runtime, func(t *testing.T) { reboot(t, e.For(t), runtime) })
			}
		})
	}
}

func reboot(t *testing.T, e *engine.Engine, runtime string) {
	name := func(what string) string { return what + "-" + runtime }
	again, always, removed := name("again"), name("always"), name("removed")
	t.Cleanup(func() { e.Run("rm", "-f", again, always, removed) })
	const program = "echo written >>/file; sync; cat /file; while :; do sleep 1000; done; exit 0"
	for container, policy := range map[string]string{again: "no", always: "always", removed: "no"} {
		e.MustRun(e.WithRuntime(runtime, "run", "-d", "--name", container, "--restart", policy, engine.Busybox, "sh", "-c", program)...)
		expectLog(t, e, container, "written\n")
	}
	e.Reboot()
	if e.Kind == engine.Podman {
		// As its podman-restart.service does at a boot.
		e.MustRun("start", "--all", "--filter", "restart-policy=always")
	}
	const twice = "written\nwritten\nwritten\n"
	expectLog(t, e, always, twice)
	e.MustRun("start", again)
	expectLog(t, e, again, twice)
	e.MustRun("rm", removed)
	if runtime == engine.RunCVM {
		if out := e.CleanRunCVM(); !strings.Contains(out, "the host has been booted since") {
			t.Errorf("gc of what was removed says:\n%s", out)
		}
	}
	e.MustRun("rm", "-f", again, always)
	e.CheckLeft()
}
