package vmm

import (
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"

	"github.com/runcvm/runcvm/test/vmm/tinyguest"
)

// Linux cannot do without the local APIC's timer, and gives it up when a busy host lets its processor wait while it measures that.
func TestGuestWithoutATimerBootsAnew(t *testing.T) {
	t.Parallel()
	g := bootGuest(t, "", "FIRECRACKER_QEMU_ACCEL=tcg")
	lose := func() {
		t.Helper()
		if _, err := io.WriteString(g.in, "l"); err != nil {
			t.Fatal(err)
		}
	}
	for strings.Count(g.log(), "boots anew") < 8 {
		g.console = nil
		lose()
		g.expect(tinyguest.Banner)
	}
	g.console = nil
	if _, err := io.WriteString(g.in, "echo me\n"); err != nil {
		t.Fatal(err)
	}
	g.expect("echo me\n")
	lose()
	var exit *exec.ExitError
	if err := g.cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(g.log(), "no timer, again and again") {
		t.Errorf("ends with %v, want code 1 and the reason in the log:\n%s", err, g.log())
	}
	g.qemuEnds()
}
