//go:build e2e

package lifecycle

import (
	"fmt"
	"strings"
	"testing"

	"github.com/runcvm/runcvm/test/harness"
)

// restartPolicies has containers that their monitors start again.
func restartPolicies(t *testing.T, h *harness.Host) {
	if r := h.Run("run", "--rm", "--restart", "always", harness.Image, "true"); r.Code != 125 || !strings.Contains(r.Stderr, "--restart and --rm") {
		t.Errorf("--rm with --restart: %+v", r)
	}
	if r := h.Run("run", "--restart", "sometimes", harness.Image, "true"); r.Code != 125 || !strings.Contains(r.Stderr, "on-failure[:N]") {
		t.Errorf("--restart sometimes: %+v", r)
	}

	// As in Docker the caller hears of the first end, and the container goes on without it.
	r := h.Run("run", "--name", "failing", "--restart", "on-failure:1", harness.Image, "sh", "-c", "echo failing; exit 4")
	if r.Code != 4 || r.Stdout != "failing\n" || r.Stderr != "" {
		t.Errorf("run: %+v", r)
	}
	prints(t, h, "4", "wait", "failing")
	if c := inspect(t, h, "failing"); c.RestartCount != 1 || c.State.Status != "exited" || c.HostConfig.RestartPolicy.Name != "on-failure" ||
		c.HostConfig.RestartPolicy.MaximumRetryCount != 1 {
		t.Errorf("failing: %+v", c)
	}
	prints(t, h, "failing\nfailing", "logs", "failing")
	if got := strings.Join(actions(t, h, "failing"), " "); got != "create start die=4 start die=4" {
		t.Errorf("events of failing: %s", got)
	}

	// One that fails not is not started again; one that is stopped neither.
	h.MustRun("run", "-d", "--name", "stubborn", "--restart", "always", harness.Image, "sh", "-c", "echo life; sleep 1")
	harness.Eventually(t, harness.Patience, func() error {
		if c := inspect(t, h, "stubborn"); c.RestartCount < 1 || !c.State.Running {
			return fmt.Errorf("%+v", c.State)
		}
		return nil
	})
	// In whatever state it is.
	prints(t, h, "stubborn", "stop", "-t", "1", "stubborn")
	if c := inspect(t, h, "stubborn"); c.State.Running || c.RestartCount < 1 {
		t.Errorf("stubborn was stopped: %+v", c)
	}
	// A monitor that is killed restarts nothing, and the next start begins to count anew.
	prints(t, h, "stubborn", "start", "stubborn")
	record := h.Record("stubborn")
	harness.Kill(t, record.Pid, 9)
	h.AwaitState("stubborn", "stopped")
	if c := inspect(t, h, "stubborn"); c.State.ExitCode != 137 || c.RestartCount > 1 || c.State.Error == "" {
		t.Errorf("stubborn's monitor was killed: %+v", c)
	}
	prints(t, h, "137", "wait", "stubborn")
	h.MustRun("rm", "stubborn", "failing")
}
