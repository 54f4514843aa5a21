//go:build e2e

package engines

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/runcvm/runcvm/test/engines/engine"
)

// testBlame takes away what RunCVM needs on the host: Docker must not take that for the container's program, whose absence is exit code
// 127, and which is never tried again.
func testBlame(t *testing.T, e *engine.Engine, runtime string) {
	if runtime != engine.RunCVM || e.Kind == engine.Podman {
		return // the control needs nothing; Podman has 126 for all errors of a runtime
	}
	t.Cleanup(func() { e.ConfigureRunCVM("") })
	missing := filepath.Join(e.Dir, "missing")
	for name, settings := range map[string]string{
		"VMM":    fmt.Sprintf("[vmm]\npath = %q\n", missing),
		"kernel": fmt.Sprintf("[kernel]\npath = %q\n", missing),
		"agent":  fmt.Sprintf("[guest]\nagent = %q\n", missing),
	} {
		t.Run(name, func(t *testing.T) {
			e := e.For(t)
			e.Etc("runcvm/config.toml", fmt.Sprintf("data_dir = %q\nrun_dir = %q\n", filepath.Join(e.RunCVMDir(), "data"), filepath.Join(e.RunCVMDir(), "run"))+settings)
			r := e.Run(e.WithRuntime(runtime, "run", "--rm", engine.Busybox, "true")...)
			if r.Code != 125 || !strings.Contains(r.Stderr, missing) {
				t.Errorf("exit code %d, want 125 and %s in: %s", r.Code, missing, r.Stderr)
			}
		})
	}
}
