//go:build e2e

package run

import (
	"strings"
	"testing"

	"github.com/runcvm/runcvm/test/harness"
)

// hostile runs a container in a guest whose agent breaks the contract in this way.
func hostile(t *testing.T, mode string, args ...string) (*harness.Host, *harness.Running) {
	t.Helper()
	h := harness.New(t)
	h.Env = []string{
		"RUNCVM_AGENT=" + harness.Program(t, "hostileagent"), "RUNCVM_KERNEL_ARGS=hostile=" + mode,
		"RUNCVM_BOOT_TIMEOUT=1m", // long enough for a boot on a busy machine, and no longer than a test may wait
	}
	return h, h.Start(append(append([]string{"run", "--name", "hostile"}, args...), harness.Image, "true")...)
}

// TestAHostileAgentCannotHoldAStartUp has agents that the host finds out before the container's process runs.
func TestAHostileAgentCannotHoldAStartUp(t *testing.T) {
	for _, c := range []struct{ mode, cause string }{
		{"garbage", "set the guest up: "},
		{"huge", "exceed maximum message size"},
		{"deaf", "has not run the process within 1m0s"},
	} {
		t.Run(c.mode, func(t *testing.T) {
			h, run := hostile(t, c.mode)
			r := run.Wait(harness.Patience)
			evidence(t, r, c.cause)
			if strings.Contains(r.Stderr, "Kernel panic") {
				t.Error("the hostile agent has failed by itself")
			}
			if left := h.Records(); len(left) != 0 {
				t.Errorf("left: %+v", left)
			}
		})
	}
}

func TestAHostileAgentsLiesAreTold(t *testing.T) {
	h, run := hostile(t, "lies")
	r := run.Wait(harness.Patience)
	if r.Code != 125 || r.Stdout != "stdout\n" || !strings.HasPrefix(r.Stderr, "stderr\n") ||
		!strings.Contains(r.Stderr, "an exit code that there is not, 4000000000") {
		t.Errorf("exit code %d, stdout %q, stderr %.2000q", r.Code, r.Stdout, r.Stderr)
	}
	// Nothing that a terminal acts on, and no megabytes: neither here nor in what is kept.
	ps := h.MustRun("ps", "-a", "--format", "{{json .Record}}")
	for what, text := range map[string]string{"standard error": r.Stderr, "ps": ps} {
		if len(text) > 32<<10 || strings.ContainsAny(text, "\x1b\r") {
			t.Errorf("%s has %d bytes: %.300q", what, len(text), text)
		}
	}
	h.MustRun("rm", "hostile")
}

func TestAHostileAgentThatCutsTheOutputShort(t *testing.T) {
	h, run := hostile(t, "early")
	r := run.Wait(harness.Patience)
	if r.Code != 0 || !strings.Contains(r.Stderr, "stdout was cut short") || !strings.Contains(r.Stderr, "stderr was cut short") {
		t.Errorf("exit code %d, stderr %q", r.Code, r.Stderr)
	}
	if e := h.Record("hostile"); !strings.Contains(e.Error, "cut short") {
		t.Errorf("its record is %+v", e)
	}
	h.MustRun("rm", "hostile")
}

// TestAHostileAgentThatDoesNotObey takes every signal and goes on.
func TestAHostileAgentThatDoesNotObey(t *testing.T) {
	h, run := hostile(t, "disobedient", "--timeout", "1")
	r := run.Wait(harness.Patience)
	if r.Code != 137 || !strings.Contains(r.Stderr, "the VMM ended: signal: killed") {
		t.Errorf("exit code %d, stderr %q", r.Code, r.Stderr)
	}
	if e := h.Record("hostile"); e.State != "stopped" || e.ExitCode != 137 {
		t.Errorf("its record is %+v", e)
	}
	h.MustRun("rm", "hostile")
}
