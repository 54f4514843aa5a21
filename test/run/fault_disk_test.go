//go:build e2e

package run

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/test/harness"
)

// fill leaves this many bytes free on the file system of dir, by a file that the test's end removes.
func fill(t *testing.T, dir string, free int64) {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Fallocate(int(f.Fd()), 0, 0, int64(st.Bavail)*st.Bsize-free); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(f.Name()) })
}

// used is how many bytes the files below dir take, links not followed.
func used(t *testing.T, dir string) (bytes int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		bytes += st.Blocks * 512
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return bytes
}

// full checks that a command has failed for want of room for something, and that nothing of it is left.
func full(t *testing.T, h *harness.Host, what string, r harness.Result, code int) {
	t.Helper()
	if r.Code != code || r.Stdout != "" || !strings.Contains(r.Stderr, what) || !strings.Contains(r.Stderr, "no space left on device") {
		t.Errorf("exit code %d, stdout %q, stderr %q", r.Code, r.Stdout, r.Stderr)
	}
	if n := used(t, h.DataDir); n > 64<<10 {
		t.Errorf("%d KiB are left", n>>10)
	}
}

func TestAnImportOntoAFullDisk(t *testing.T) {
	h := harness.NewOnFullDisk(t, 8, "images")
	full(t, h, "import ", h.Run("import", os.Getenv("RUNCVM_TEST_IMAGE"), harness.Image), 1)
	if images := h.MustRun("images"); strings.Contains(images, "debian") {
		t.Errorf("images prints %q", images)
	}
}

func TestAnImageDiskOntoAFullDisk(t *testing.T) {
	h := harness.NewOnFullDisk(t, 8, "disks")
	full(t, h, "image disk", h.Run("run", "--rm", harness.Image, "true"), 125)
}

func TestAKernelOntoAFullDisk(t *testing.T) {
	h := harness.NewOnFullDisk(t, 8, "kernels")
	full(t, h, "kernel", h.Run("run", "--rm", harness.Image, "true"), 125)
}

func TestAWritableDiskOntoAFullDisk(t *testing.T) {
	h := harness.NewOnFullDisk(t, 1)
	h.MustRun("images") // makes the directories
	fill(t, filepath.Dir(h.DataDir), 120<<10)
	full(t, h, "make writable disk", h.Run("run", "--rm", harness.Image, "true"), 125)
}

// TestTheHostsDiskFillsWhileAContainerWrites gives a container a disk larger than what the host has. It must learn of it by
// an error, go on, and end as it wants; its output beyond the log's disk is lost to the log, which is told, and to nobody
// else.
func TestTheHostsDiskFillsWhileAContainerWrites(t *testing.T) {
	h := harness.NewOnFullDisk(t, 48)
	// The kernel would print each of the errors, which takes minutes where KVM is emulated.
	h.Env = []string{"RUNCVM_KERNEL_ARGS=loglevel=0"}
	script := `dd if=/dev/zero of=/file bs=1M count=100 conv=fsync 2>/dev/null && echo written
		seq 1000001 1020000
		exit 9`
	r := h.Start("run", "--name", "fills", "--size", "200m", harness.Image, "sh", "-c", script).Wait(harness.Patience)
	if r.Code != 9 || r.Stdout != string(lines(20_000)) {
		t.Errorf("exit code %d, %d bytes on stdout: %.100q", r.Code, len(r.Stdout), r.Stdout)
	}
	e := h.Record("fills")
	if e.State != "stopped" || e.ExitCode != 9 || e.LogLost == 0 {
		t.Errorf("its record is %+v", e)
	}
	if !strings.Contains(r.Stderr, "not in its log") {
		t.Errorf("nobody is told that the log is incomplete: %q", r.Stderr)
	}
	if logs := h.Run("logs", "fills"); logs.Code != 0 || !strings.HasPrefix(string(lines(20_000)), logs.Stdout) || !strings.Contains(logs.Stderr, "incomplete") {
		t.Errorf("logs: exit code %d, %d bytes, stderr %q", logs.Code, len(logs.Stdout), logs.Stderr)
	}
	h.MustRun("rm", "fills")
	if n := used(t, h.DataDir); n > 64<<10 {
		t.Errorf("%d KiB are left", n>>10)
	}
}
