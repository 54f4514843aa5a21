//go:build e2e

package engines

import (
	"os"
	"testing"

	"github.com/runcvm/runcvm/test/engines/engine"
)

func TestMain(m *testing.M) { engine.Main(m) }

// kinds are the engines of this run: all with RUNCVM_TEST_ENGINES=all, and else Debian's. A current Docker takes minutes to be built.
func kinds() []engine.Kind {
	if os.Getenv("RUNCVM_TEST_ENGINES") == "all" {
		return engine.Kinds
	}
	return []engine.Kind{engine.DebianDocker, engine.Podman}
}

// TestEngines runs the table of cases with each engine, under RunCVM and under runc as the control.
func TestEngines(t *testing.T) {
	found := readDifferences(t)
	for _, kind := range kinds() {
		t.Run(string(kind), func(t *testing.T) {
			e := engine.New(t, kind, engine.Options{})
			e.LoadImages(engine.Busybox)
			for _, runtime := range runtimes {
				t.Run(runtime, func(t *testing.T) {
					t.Run("cases", func(t *testing.T) {
						for _, c := range cases {
							t.Run(c.name, func(t *testing.T) {
								t.Parallel()
								runCase(t, e, runtime, c, found)
							})
						}
					})
					for _, x := range []struct {
						name string
						run  func(*testing.T, *engine.Engine, string)
					}{{"together", testTogether}, {"nginx", testNginx}, {"new content", testNewContent}, {"second container", testSecondContainer},
						{"death", testDeath}, {"connect", testConnect}, {"exec signals", testExecSignals}, {"cgroup", testCgroup}, {"refused", testRefused}, {"verbs", testVerbs},
						{"nested", testNested}, {"blame", testBlame}, {"cycles", testCycles}, {"left", testLeft}} {
						t.Run(x.name, func(t *testing.T) { x.run(t, e.For(t), runtime) })
					}
				})
			}
		})
	}
	if !t.Failed() {
		found.reportUnused(t)
	}
}
