//go:build e2e

// Package processes tests exec, attach and terminals on real guests. A boot is the expensive part, so each test has one container for
// many checks.
package processes

import (
	"testing"

	"github.com/runcvm/runcvm/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// container starts a container of the image with further programs, and returns its host.
func container(t *testing.T, args ...string) *harness.Host {
	t.Helper()
	h := harness.New(t)
	h.Tools()
	h.MustRun(append([]string{"run", "-d"}, args...)...)
	return h
}
