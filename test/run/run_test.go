//go:build e2e

// Package run tests runcvm's own command line on real guests.
package run

import (
	"testing"

	"github.com/runcvm/runcvm/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

func TestStreamsAndExitCodeAreTheCommandsOwn(t *testing.T) {
	h := harness.New(t)
	r := h.Run("run", "--rm", harness.Image, "sh", "-c", "echo out; echo err >&2; exit 7")
	if r.Stdout != "out\n" || r.Stderr != "err\n" || r.Code != 7 {
		t.Errorf("stdout %q, stderr %q, exit code %d", r.Stdout, r.Stderr, r.Code)
	}
}
