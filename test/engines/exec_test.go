//go:build e2e

package engines

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/runcvm/runcvm/test/engines/engine"
	"github.com/runcvm/runcvm/test/harness"
)

// testExecSignals sends signals to the process of the host that an engine knows an exec by. The exec's process gets them, and does not
// outlive the process of the host.
func testExecSignals(t *testing.T, e *engine.Engine, runtime string) {
	const name = "exec-signals"
	t.Cleanup(func() { e.Run("rm", "-f", name) })
	e.MustRun(e.WithRuntime(runtime, "run", "-d", "--name", name, engine.Busybox, "sleep", "1000")...)
	ctx, cancel := context.WithTimeout(context.Background(), harness.Patience)
	defer cancel()
	exec := e.Command(ctx, "exec", name, "sh", "-c",
		`for s in TERM USR1; do trap "echo $s >>/told" $s; done; echo $$ >/pid; while :; do sleep 0.1; done`)
	var output bytes.Buffer
	exec.Stdout, exec.Stderr = &output, &output
	if err := exec.Start(); err != nil {
		t.Fatal(err)
	}
	// eventually waits until a shell in the container says this.
	eventually := func(want, command string) {
		t.Helper()
		harness.Eventually(t, harness.Patience, func() error {
			if r := e.Run("exec", name, "sh", "-c", command); r.Stdout != want {
				return fmt.Errorf("%s: %q, want %q: %s", command, r.Stdout, want, r.Stderr)
			}
			return nil
		})
	}
	const alive = `kill -0 $(cat /pid) && echo alive || echo gone`
	eventually("alive\n", alive)
	pid := execPid(t, e, runtime)
	harness.Kill(t, pid, syscall.SIGTERM)
	harness.Kill(t, pid, syscall.SIGUSR1)
	eventually("TERM\nUSR1\n", "sort /told")
	eventually("alive\n", alive)
	harness.Kill(t, pid, syscall.SIGKILL)
	_ = exec.Wait() // its code says it
	if code := exec.ProcessState.ExitCode(); code != 137 {
		t.Errorf("exec ended with %d, want 137: %s", code, output.String())
	}
	eventually("gone\n", alive)
}

// execPid is the one exec's process of the host, whose pid the runtime has told the engine.
func execPid(t *testing.T, e *engine.Engine, runtime string) (pid int) {
	t.Helper()
	begins := "sh -c for s in"
	if runtime == engine.RunCVM {
		begins = "runcvm oci-exec"
	}
	harness.Eventually(t, harness.Soon, func() error {
		all, found := e.Processes(), 0
		for p, command := range all {
			if strings.HasPrefix(command, begins) {
				pid, found = p, found+1
			}
		}
		if found != 1 { // others, which have told what the exec's process does, are about to end
			return fmt.Errorf("%d processes of execs among %v", found, all)
		}
		return nil
	})
	return pid
}
