//go:build e2e

package engines

import (
	"fmt"
	"strings"
	"testing"

	"github.com/runcvm/runcvm/test/engines/engine"
	"github.com/runcvm/runcvm/test/harness"
)

// TestDaemonKilled kills Docker's daemon with SIGKILL. With live-restore the container lives on, and the next daemon knows it as
// before; without, that one ends it, and nothing is left.
func TestDaemonKilled(t *testing.T) {
	for _, kind := range kinds() {
		if kind == engine.Podman {
			continue // it has no daemon
		}
		for _, live := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/live-restore %t", kind, live), func(t *testing.T) {
				e := engine.New(t, kind, engine.Options{LiveRestore: live})
				e.LoadImages(engine.Busybox)
				for _, runtime := range runtimes {
					t.Run(runtime, func(t *testing.T) { killDaemon(t, e.For(t), runtime, live) })
				}
			})
		}
	}
}

func killDaemon(t *testing.T, e *engine.Engine, runtime string, live bool) {
	name := "survivor-" + runtime
	t.Cleanup(func() { e.Run("rm", "-f", name) })
	e.MustRun(e.WithRuntime(runtime, "run", "-d", "--name", name, "--stop-timeout", "60", engine.Busybox, "sh", "-c",
		`trap "echo bye; exit 3" TERM; echo up; while :; do sleep 0.1; [ ! -f /go ] || { rm /go; echo went on; }; done`)...)
	logs := func(want string) { t.Helper(); expectLog(t, e, name, want) }
	logs("up\n")
	e.KillDaemon()
	e.StartDaemon()
	state := func() string { return e.MustRun("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", name) }
	if !live {
		harness.Eventually(t, harness.Patience, func() error {
			if got := state(); !strings.HasPrefix(got, "exited ") {
				return fmt.Errorf("the container is %s", got)
			}
			return nil
		})
		e.CheckLeftBut(name)
		return
	}
	if got := state(); got != "running 0" {
		t.Fatalf("after the daemon's death the container is %s", got)
	}
	followed := make(chan string, 1)
	go func() { followed <- e.Run("logs", "-f", name).Stdout }()
	e.MustRun("exec", name, "touch", "/go")
	logs("up\nwent on\n")
	e.MustRun("stop", name)
	if got, want := <-followed, "up\nwent on\nbye\n"; got != want {
		t.Errorf("logs -f had %q, want %q", got, want)
	}
	if got := state(); got != "exited 3" {
		t.Errorf("after stop the container is %s, want exited 3", got)
	}
	logs("up\nwent on\nbye\n")
	e.CheckLeftBut(name)
}

// expectLog waits until a container's log has become what is wanted.
func expectLog(t *testing.T, e *engine.Engine, name, want string) {
	t.Helper()
	harness.Eventually(t, harness.Patience, func() error {
		if got := e.Run("logs", name).Stdout; got != want {
			return fmt.Errorf("the log is %q, want %q", got, want)
		}
		return nil
	})
}
