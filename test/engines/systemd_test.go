//go:build e2e

package engines

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/runcvm/runcvm/test/engines/engine"
	"github.com/runcvm/runcvm/test/harness"
)

// withSystemd are the cases in which the driver of cgroups matters. Docker loses runc's report of a lack of memory now and then, as
// systemd removes the cgroup at once, and on cgroup v1 its top lists nothing of runc's: the control does without these.
var withSystemd = map[string][]string{engine.Runc: {"run", "restart-policy"}, engine.RunCVM: {"run", "restart-policy", "life", "oom"}}

// TestSystemd runs those cases of the table with engines that let systemd make cgroups, on a host whose init it is, and looks at the
// scope of a container.
func TestSystemd(t *testing.T) {
	found := readDifferences(t)
	for _, kind := range kinds() {
		t.Run(string(kind), func(t *testing.T) {
			e := engine.New(t, kind, engine.Options{Systemd: true})
			e.LoadImages(engine.Busybox)
			for _, runtime := range runtimes {
				t.Run(runtime, func(t *testing.T) {
					t.Run("cases", func(t *testing.T) {
						for _, c := range cases {
							if slices.Contains(withSystemd[runtime], c.name) {
								t.Run(c.name, func(t *testing.T) {
									t.Parallel()
									runCase(t, e, runtime, c, found)
								})
							}
						}
					})
					t.Run("scope", func(t *testing.T) { testScope(t, e.For(t), runtime) })
				})
			}
		})
	}
}

// testScope expects that a container's process is in a scope of systemd's, which holds the limits and goes with the container.
func testScope(t *testing.T, e *engine.Engine, runtime string) {
	name := "scope-" + runtime
	t.Cleanup(func() { e.Run("rm", "-f", name) })
	args := append(append([]string{"run", "-d", "--name", name}, limited...), engine.Busybox, "sleep", "1000")
	e.MustRun(e.WithRuntime(runtime, args...)...)
	unit := map[engine.Kind]string{engine.Podman: "libpod-"}[e.Kind]
	if unit == "" {
		unit = "docker-"
	}
	unit += e.MustRun("inspect", "-f", "{{.Id}}", name) + ".scope"
	pid := e.MustRun("inspect", "-f", "{{.State.Pid}}", name)
	cgroup, err1 := e.Host.Run("systemctl", "show", "--value", "-p", "ControlGroup", unit)
	own, err2 := e.Host.Run("cat", "/proc/"+pid+"/cgroup")
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	if cgroup = strings.TrimSpace(cgroup); cgroup == "" || !strings.Contains(own, cgroup) {
		t.Errorf("%s is at %q, and process %s at\n%s", unit, cgroup, pid, own)
	}
	checkCgroup(t, e, name, runtime)
	e.MustRun("rm", "-f", name)
	harness.Eventually(t, harness.Soon, func() error {
		units, err := e.Host.Run("systemctl", "list-units", "--all", "--plain", "--no-legend", "*.scope")
		if err == nil && strings.Contains(units, unit) {
			err = fmt.Errorf("systemd still has\n%s", units)
		}
		return err
	})
	e.CheckLeft()
}
