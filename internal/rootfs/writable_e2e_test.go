//go:build e2e

package rootfs

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/image"
	"github.com/runcvm/runcvm/internal/image/imagetest"
)

// TestTheKernelUsesTheWritableDisk mounts disks of several sizes, fills them, and has e2fsck look at what became of them.
func TestTheKernelUsesTheWritableDisk(t *testing.T) {
	for _, size := range []int64{MinWritable, 300 << 20, 10 << 30, 1 << 40} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "rootfs.ext4")
			o := writable("sh")
			o.Size = size
			must(t, CreateWritable(t.Context(), path, o))
			dir := t.TempDir()
			run := func(name string, args ...string) {
				if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
					t.Errorf("%s: %v\n%s", name, err, out)
				}
			}
			run("mount", "-t", "ext4", "-o", "loop", path, dir)
			if b, err := os.ReadFile(filepath.Join(dir, ".runcvm", "entrypoint")); err != nil || string(b) != `["sh"]` {
				t.Errorf("entrypoint %q: %v", b, err)
			}
			for i := range 500 {
				must(t, os.MkdirAll(filepath.Join(dir, "upper", fmt.Sprint(i%50)), 0o755),
					os.WriteFile(filepath.Join(dir, "upper", fmt.Sprint(i%50), fmt.Sprint(i)), bytes.Repeat([]byte{byte(i)}, i), 0o644))
			}
			// More than a group has, where there is that much.
			big := bytes.Repeat([]byte("big"), int(min(size/2, 200<<20))/3)
			must(t, os.WriteFile(filepath.Join(dir, "upper", "big"), big, 0o644))
			run("umount", dir)
			if size < 1<<40 { // what e2fsck would take minutes for
				run("e2fsck", "-fn", path)
			}
		})
	}
}

// small mounts a file system of a few MiB.
func small(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	must(t, syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size))
	t.Cleanup(func() { must(t, syscall.Unmount(dir, 0)) })
	return dir
}

func TestADirectoryWithAMountPointIsRefused(t *testing.T) {
	dir, path := t.TempDir(), filepath.Join(t.TempDir(), "disk")
	must(t, os.Mkdir(filepath.Join(dir, "proc"), 0o755), syscall.Mount("proc", filepath.Join(dir, "proc"), "proc", 0, ""))
	_, err := BuildDirectory(t.Context(), dir, path)
	must(t, syscall.Unmount(filepath.Join(dir, "proc"), 0))
	if err == nil || !strings.Contains(err.Error(), "proc: is a mount point") {
		t.Errorf("error %v", err)
	}
	if _, err := os.Lstat(path); err == nil {
		t.Error("a disk was left")
	}
	_, err = BuildDirectory(t.Context(), dir, path)
	must(t, err)
}

func TestAFullDiskIsAClearErrorAndLeavesNothing(t *testing.T) {
	noise := make([]byte, 4<<20)
	for i := range noise {
		noise[i] = byte(i * i >> 8)
	}
	store, img := imported(t, []imagetest.Entry{reg("a", string(noise))})
	root := t.TempDir()
	must(t, os.WriteFile(filepath.Join(root, "a"), noise, 0o644))
	tests := map[string]func(dir string) error{
		"image disk": func(dir string) error {
			c, err := OpenCache(dir)
			must(t, err)
			_, err = c.ImageDisk(t.Context(), store, img, DiskOptions{Cache: true})
			return err
		},
		"image disk without the cache": func(dir string) error {
			c, err := OpenCache(dir)
			must(t, err)
			_, err = c.ImageDisk(t.Context(), store, img, DiskOptions{})
			return err
		},
		"writable disk": func(dir string) error {
			o := writable("sh", strings.Repeat("x", 3<<20))
			return CreateWritable(t.Context(), filepath.Join(dir, "rootfs.ext4"), o)
		},
		"directory": func(dir string) error {
			_, err := BuildDirectory(t.Context(), root, filepath.Join(dir, "disk"))
			return err
		},
		"import": func(dir string) error {
			s, err := image.Open(filepath.Join(dir))
			must(t, err)
			_, err = s.Import(t.Context(), root, "full")
			return err
		},
	}
	for name, run := range tests {
		t.Run(name, func(t *testing.T) {
			dir := small(t, "1m")
			if err := run(dir); err == nil || !strings.Contains(err.Error(), "no space left on device") {
				t.Errorf("error %v", err)
			}
			var st unix.Statfs_t
			must(t, unix.Statfs(dir, &st))
			if used := int64(st.Blocks-st.Bfree) * st.Bsize; used > 64<<10 {
				t.Errorf("%d bytes are left in use", used)
			}
		})
	}
}
