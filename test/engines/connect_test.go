//go:build e2e

package engines

import (
	"fmt"
	"strings"
	"testing"

	"github.com/runcvm/runcvm/test/engines/engine"
	"github.com/runcvm/runcvm/test/harness"
)

// testConnect connects a running container to a further network. A guest has it from its next start on, which the monitor's log says.
func testConnect(t *testing.T, e *engine.Engine, runtime string) {
	name := "connect-" + runtime
	t.Cleanup(func() {
		e.Run("rm", "-f", name)
		e.Run("network", "rm", name)
	})
	e.MustRun("network", "create", name)
	e.MustRun(e.WithRuntime(runtime, "run", "-d", "--name", name, "--stop-timeout", "60", engine.Busybox, "sh", "-c",
		"trap 'exit 0' TERM; while :; do sleep 0.1; done")...)
	interfaces := func(want ...string) {
		t.Helper()
		harness.Eventually(t, harness.Soon, func() error {
			got := strings.Fields(e.MustRun("exec", name, "sh", "-c", "cd /sys/class/net; ls -d eth*"))
			if strings.Join(got, " ") != strings.Join(want, " ") {
				return fmt.Errorf("interfaces %v, want %v", got, want)
			}
			return nil
		})
	}
	interfaces("eth0")
	e.MustRun("network", "connect", name, name)
	if runtime == engine.RunCVM {
		harness.Eventually(t, harness.Soon, func() error {
			log, err := e.RunCVMCommand("logs", "--source", "monitor", e.MustRun("inspect", "-f", "{{.Id}}", name))
			if err == nil && !strings.Contains(log, "from the container's next start on\" interface=eth1") {
				err = fmt.Errorf("the monitor's log does not tell of the interface:\n%s", log)
			}
			return err
		})
		interfaces("eth0")
		e.MustRun("restart", name)
	}
	interfaces("eth0", "eth1")
}
