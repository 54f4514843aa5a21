//go:build e2e

package harness

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestTheLeakCheckFindsWhatIsLeft leaves one thing of each kind, and takes it away again.
func TestTheLeakCheckFindsWhatIsLeft(t *testing.T) {
	dir := t.TempDir()
	h := &Host{t: t, DataDir: filepath.Join(dir, "data"), RunDir: filepath.Join(dir, "run")}
	for _, d := range []string{"run", "data/containers", "data/names", "data/images/tmp", "data/disks", "data/kernels"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for what, leave := range map[string]func(t *testing.T) (remove func() error){
		"a container":              leaveFile(h, "data/containers/c"),
		"an unfinished container":  leaveFile(h, "data/containers/.new-c"),
		"a name":                   leaveFile(h, "data/names/n"),
		"a socket's directory":     leaveFile(h, "run/c"),
		"an unfinished import":     leaveFile(h, "data/images/tmp/import-1"),
		"an unfinished image disk": leaveFile(h, "data/disks/build-1.erofs"),
		"an uncached image disk":   leaveFile(h, "data/disks/private-1.erofs"),
		"an unfinished kernel":     leaveFile(h, "data/kernels/.tmp-1"),
		"a mount": func(t *testing.T) func() error {
			if err := unix.Mount("tmpfs", h.RunDir, "tmpfs", 0, ""); err != nil {
				t.Fatal(err)
			}
			return func() error { return unix.Unmount(h.RunDir, 0) }
		},
		"a loop device": func(t *testing.T) func() error {
			file := filepath.Join(h.DataDir, "loop")
			if err := os.WriteFile(file, make([]byte, 1<<20), 0o600); err != nil {
				t.Fatal(err)
			}
			device, err := exec.Command("losetup", "--find", "--show", file).Output()
			if err != nil {
				t.Fatal(err)
			}
			return exec.Command("losetup", "-d", strings.TrimSpace(string(device))).Run
		},
		"a process by its arguments":   leaveProcess(func(c *exec.Cmd) { c.Args = append(c.Args, h.DataDir) }),
		"a process by its environment": leaveProcess(func(c *exec.Cmd) { c.Env = []string{"X=" + h.RunDir} }),
		"a process by its directory":   leaveProcess(func(c *exec.Cmd) { c.Dir = h.RunDir }),
		"a process by an open file": leaveProcess(func(c *exec.Cmd) {
			f, err := os.Open(h.DataDir)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { f.Close() })
			c.ExtraFiles = []*os.File{f}
		}),
	} {
		t.Run(what, func(t *testing.T) {
			if err := h.leaks(); err != nil {
				t.Fatalf("before: %v", err)
			}
			remove := leave(t)
			// A process shows its arguments and environment a moment after its exec.
			Eventually(t, settle, func() error {
				if h.leaks() == nil {
					return errors.New("not found")
				}
				return nil
			})
			if err := remove(); err != nil {
				t.Fatal(err)
			}
			Eventually(t, settle, h.leaks)
		})
	}
}

func leaveFile(h *Host, path string) func(*testing.T) func() error {
	return func(t *testing.T) func() error {
		path := filepath.Join(filepath.Dir(h.DataDir), path)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		return func() error { return os.Remove(path) }
	}
}

// leaveProcess starts a shell that reads from a pipe.
func leaveProcess(change func(*exec.Cmd)) func(*testing.T) func() error {
	return func(t *testing.T) func() error {
		cmd := exec.Command("sh", "-c", "read line || true", "sh")
		change(cmd)
		in, err := cmd.StdinPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		return func() error {
			in.Close()
			return cmd.Wait()
		}
	}
}
