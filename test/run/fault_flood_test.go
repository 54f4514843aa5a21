//go:build e2e

package run

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/runcvm/runcvm/test/harness"
)

// watchLog waits until a log has been full some times, or has this many bytes, and checks on the way that it never exceeds
// its bound.
func watchLog(t *testing.T, h *harness.Host, record harness.Record, name string, bound, enough int64) {
	t.Helper()
	const often = 3
	dir := filepath.Join(h.DataDir, "containers", record.ID)
	rotations, last := 0, os.FileInfo(nil)
	harness.Eventually(t, harness.Patience, func() error {
		var size int64
		for _, part := range []string{name, name + ".1"} {
			if info, err := os.Stat(filepath.Join(dir, part)); err == nil {
				size += info.Size()
			}
		}
		if size > bound {
			t.Fatalf("%s has %d bytes, its bound is %d", name, size, bound)
		}
		if older, err := os.Stat(filepath.Join(dir, name+".1")); err == nil && (last == nil || !os.SameFile(older, last)) {
			rotations, last = rotations+1, older
		}
		if rotations < often && size < enough {
			return fmt.Errorf("%s has been full %d times, %d bytes now", name, rotations, size)
		}
		return nil
	})
}

func TestAConsoleThatIsWrittenToWithoutEndStaysUnderItsBound(t *testing.T) {
	h := harness.New(t)
	h.Env = []string{"RUNCVM_AGENT=" + harness.Program(t, "hostileagent"), "RUNCVM_KERNEL_ARGS=hostile=flood"}
	record := sleeper(t, h, "floods")
	const bound = 1 << 20
	enough := int64(bound + 1)
	if !harness.Emulated() {
		// Where KVM is emulated a byte of the console takes 2 ms. It is seen that the guest writes and that nothing else suffers.
		enough = 16 << 10
	}
	watchLog(t, h, record, "console.log", bound, enough)
	if got := bounded(t, h, harness.Soon, "logs", "floods"); got != "up\n" {
		t.Errorf("logs prints %q", got)
	}
	if got := bounded(t, h, harness.Soon, "logs", "--source", "console", "floods"); !strings.Contains(got, "flood") {
		t.Errorf("the console's log has %d bytes", len(got))
	}
	bounded(t, h, harness.Soon+killing, "rm", "-f", "floods")
}

func TestOutputWithoutEndStaysUnderItsBound(t *testing.T) {
	h := harness.New(t)
	h.Env = []string{"RUNCVM_LOG_MAX_SIZE=256KiB"}
	h.MustRun("run", "-d", "--name", "prints", harness.Image, "sh", "-c", "while :; do seq 1000001 1010000; done")
	watchLog(t, h, h.Record("prints"), "output.log", 256<<10, 256<<10+1)
	got := bounded(t, h, harness.Soon, "logs", "prints")
	_, rest, _ := strings.Cut(got, "\n") // the first line may be cut
	for line := range strings.Lines(rest) {
		if len(line) != 8 && line[len(line)-1] == '\n' {
			t.Errorf("the log has the line %q", line)
		}
	}
	if len(got) < 8<<10 {
		t.Errorf("the log has %d bytes", len(got))
	}
	bounded(t, h, harness.Soon+killing, "rm", "-f", "prints")
}
