//go:build e2e

package rootfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/image"
	"github.com/runcvm/runcvm/internal/image/imagetest"
)

// mount mounts a disk read-only and returns where. It needs root.
func mount(t *testing.T, disk string) string {
	t.Helper()
	if out, err := exec.Command("fsck.erofs", disk).CombinedOutput(); err != nil {
		t.Errorf("fsck.erofs: %v\n%s", err, out)
	}
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "erofs", "-o", "loop,ro", disk, dir).CombinedOutput(); err != nil {
		t.Fatalf("mount %s: %v\n%s", disk, err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v\n%s", err, out)
		}
	})
	return dir
}

// must ends the test at the first error.
func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// acl is a POSIX ACL in the form of its extended attribute (linux/posix_acl_xattr.h): owner, user 1000, group, mask, other.
const acl = "\x02\x00\x00\x00" + "\x01\x00\x07\x00\xff\xff\xff\xff" + "\x02\x00\x04\x00\xe8\x03\x00\x00" +
	"\x04\x00\x05\x00\xff\xff\xff\xff" + "\x10\x00\x05\x00\xff\xff\xff\xff" + "\x20\x00\x04\x00\xff\xff\xff\xff"

// capability is cap_net_bind_service=ep as VFS_CAP_REVISION_2 (linux/capability.h).
const capability = "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// everyKind fills dir with every kind of entry.
func everyKind(t *testing.T, dir string) {
	t.Helper()
	at := func(name string) string { return filepath.Join(dir, name) }
	write := func(name string, content []byte) { must(t, os.WriteFile(at(name), content, 0o644)) }
	noise := make([]byte, 300_000)
	for i := range noise {
		noise[i] = byte(i*7 + i>>8*13 + 1)
	}
	for _, size := range []int{0, 1, 4095, 4096, 4097, 8192, 300_000} {
		write(fmt.Sprintf("file-%d", size), noise[:size])
	}
	write(strings.Repeat("n", 255), noise[:10])
	write(strings.Repeat("\xfe", 255), noise[:10])
	write("caf\xe9 \n\t\"'\\ ü", noise[:10])
	for _, mode := range []uint32{0o4755, 0o2755, 0o6711, 0o1777, 0o0000, 0o7777} {
		name := fmt.Sprintf("mode-%04o", mode)
		write(name, noise[:100])
		must(t, unix.Chmod(at(name), mode), os.Mkdir(at("dir-"+name), 0o755), unix.Chmod(at("dir-"+name), mode))
	}
	write("owner", nil)
	must(t, os.Lchown(at("owner"), 1<<32-2, 3_000_000_000))
	must(t, os.Symlink("../nowhere/\xff", at("symlink")), os.Lchown(at("symlink"), 7, 8), os.Symlink(strings.Repeat("t/", 2000), at("symlink-long")))
	must(t, os.Link(at("file-300000"), at("hard-1")), os.Mkdir(at("sub"), 0o755), os.Link(at("file-300000"), at("sub/hard-2")),
		os.Link(at("symlink"), at("sub/hard-symlink")))
	must(t, unix.Mknod(at("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))), unix.Mknod(at("block"), unix.S_IFBLK|0o660, int(unix.Mkdev(4095, 1<<20-1))),
		unix.Mkfifo(at("fifo"), 0o600))
	write("xattr", noise[:5000])
	must(t, unix.Setxattr(at("xattr"), "user.text", []byte("value"), 0), unix.Setxattr(at("xattr"), "user.binary=name", []byte("\x00\xff\n=\x00"), 0),
		unix.Setxattr(at("xattr"), "user.empty", nil, 0), unix.Setxattr(at("xattr"), "trusted.t", []byte("t"), 0),
		unix.Setxattr(at("xattr"), "user.long", bytes.Repeat([]byte("x"), 3000), 0),
		unix.Setxattr(at("xattr"), "security.capability", []byte(capability), 0))
	must(t, os.Mkdir(at("acl"), 0o750), unix.Setxattr(at("acl"), "system.posix_acl_access", []byte(acl), 0),
		unix.Setxattr(at("acl"), "system.posix_acl_default", []byte(acl), 0))
	sparse(t, at("sparse-5G"), 5<<30, map[int64]string{0: "first", 4<<30 + 12345: "beyond 4 GiB", 5<<30 - 1: "e"})
	sparse(t, at("sparse-1M"), 1<<20+17, map[int64]string{700_000: "middle"})
	sparse(t, at("hole"), 10<<20, nil)
	must(t, os.Mkdir(at("many"), 0o755), os.Mkdir(at("empty"), 0o700))
	for i := range 10_000 {
		must(t, os.WriteFile(filepath.Join(at("many"), fmt.Sprintf("%05d-%s", i, strings.Repeat("m", i%240))), nil, 0o644))
	}
	must(t, os.MkdirAll(at(strings.Repeat("deep/", 200)), 0o755))
	must(t, unix.Chmod(dir, 0o1751), os.Chown(dir, 11, 12))
	setTimes(t, dir)
}

func sparse(t *testing.T, path string, size int64, data map[int64]string) {
	t.Helper()
	f, err := os.Create(path)
	must(t, err, f.Truncate(size))
	for at, text := range data {
		_, err := f.WriteAt([]byte(text), at)
		must(t, err)
	}
	must(t, f.Close())
}

// setTimes gives each file a modification time of its own, the directories after what is in them.
func setTimes(t *testing.T, dir string) {
	t.Helper()
	var paths []string
	must(t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		paths = append(paths, path)
		return err
	}))
	for i, path := range slices.Backward(paths) {
		ts := unix.Timespec{Sec: int64(i)*86_400 - 1_000_000, Nsec: int64(i*7919+1) % 1_000_000_000}
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW))
	}
}

// compare reports every difference between two trees. Numbers of inodes may differ, but not which names have one in common.
func compare(t *testing.T, want, got string) {
	t.Helper()
	compareTrees(t, want, got, true)
}

// compareTrees leaves out how many links directories have, unless that is asked for.
func compareTrees(t *testing.T, want, got string, directoryLinks bool) {
	t.Helper()
	inodes := map[uint64]uint64{}
	back := map[uint64]uint64{}
	count := 0
	must(t, filepath.WalkDir(want, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		count++
		name, err := filepath.Rel(want, path)
		must(t, err)
		a, b := path, filepath.Join(got, name)
		var sa, sb unix.Stat_t
		if err := errors.Join(unix.Lstat(a, &sa), unix.Lstat(b, &sb)); err != nil {
			t.Errorf("%q: %v", name, err)
			return nil
		}
		if sa.Mode&unix.S_IFMT == unix.S_IFDIR {
			sa.Size, sb.Size = 0, 0 // each file system has its own idea
			if !directoryLinks {
				sa.Nlink, sb.Nlink = 0, 0
			}
		}
		if sa.Mode != sb.Mode || sa.Uid != sb.Uid || sa.Gid != sb.Gid || sa.Rdev != sb.Rdev || sa.Nlink != sb.Nlink || sa.Size != sb.Size || sa.Mtim != sb.Mtim {
			t.Errorf("%q: mode %o %o, owner %d:%d %d:%d, device %x %x, links %d %d, size %d %d, time %v %v", name, sa.Mode, sb.Mode,
				sa.Uid, sa.Gid, sb.Uid, sb.Gid, sa.Rdev, sb.Rdev, sa.Nlink, sb.Nlink, sa.Size, sb.Size, sa.Mtim, sb.Mtim)
		}
		if i, ok := inodes[sa.Ino]; ok && i != sb.Ino {
			t.Errorf("%q: is no longer a hard link", name)
		}
		if i, ok := back[sb.Ino]; ok && i != sa.Ino {
			t.Errorf("%q: became a hard link", name)
		}
		inodes[sa.Ino], back[sb.Ino] = sb.Ino, sa.Ino
		xa, xb := xattrs(t, a), xattrs(t, b)
		if fmt.Sprint(xa) != fmt.Sprint(xb) {
			t.Errorf("%q: extended attributes %q, want %q", name, xb, xa)
		}
		switch sa.Mode & unix.S_IFMT {
		case unix.S_IFLNK:
			la, errA := os.Readlink(a)
			lb, errB := os.Readlink(b)
			if errA != nil || errB != nil || la != lb {
				t.Errorf("%q: link to %q, want %q: %v, %v", name, lb, la, errA, errB)
			}
		case unix.S_IFREG:
			sameContent(t, name, a, b)
		}
		return nil
	}))
	have := 0
	must(t, filepath.WalkDir(got, func(_ string, _ fs.DirEntry, err error) error {
		have++
		return err
	}))
	if have != count {
		t.Errorf("%d entries, want %d", have, count)
	}
}

func xattrs(t *testing.T, path string) map[string]string {
	t.Helper()
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, buf)
	must(t, err)
	found := map[string]string{}
	for _, name := range strings.FieldsFunc(string(buf[:n]), func(r rune) bool { return r == 0 }) {
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(path, name, value)
		must(t, err)
		found[name] = string(value[:n])
	}
	return found
}

// sameContent compares what is not a hole in a, and that b has nothing but zeros elsewhere, as far as b's own data goes.
func sameContent(t *testing.T, name, a, b string) {
	t.Helper()
	fa, errA := os.Open(a)
	fb, errB := os.Open(b)
	must(t, errA, errB)
	defer fa.Close()
	defer fb.Close()
	for _, f := range []*os.File{fa, fb} {
		for at := int64(0); ; {
			start, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
			if errors.Is(err, unix.ENXIO) {
				break
			}
			must(t, err)
			end, err := unix.Seek(int(f.Fd()), start, unix.SEEK_HOLE)
			must(t, err)
			if end-start > 1<<30 {
				t.Errorf("%q: %d bytes of data where there are holes", name, end-start)
				return
			}
			x, y := make([]byte, end-start), make([]byte, end-start)
			_, errA := io.ReadFull(io.NewSectionReader(fa, start, end-start), x)
			_, errB := io.ReadFull(io.NewSectionReader(fb, start, end-start), y)
			if errA != nil || errB != nil || !bytes.Equal(x, y) {
				t.Errorf("%q: content differs in bytes %d to %d: %v, %v", name, start, end, errA, errB)
			}
			at = end
		}
	}
}

// takes returns what a file takes on its disk, in bytes.
func takes(t *testing.T, path string) int64 {
	t.Helper()
	var st unix.Stat_t
	must(t, unix.Stat(path, &st))
	return st.Blocks * 512
}

func TestDirectoryDiskIsExact(t *testing.T) {
	dir := t.TempDir()
	everyKind(t, dir)
	// What no tar has: sockets, and hard links of anything but files and symbolic links.
	must(t, unix.Mknod(filepath.Join(dir, "socket"), unix.S_IFSOCK|0o600, 0), os.Link(filepath.Join(dir, "fifo"), filepath.Join(dir, "fifo-hard")))
	setTimes(t, dir)
	disk := filepath.Join(t.TempDir(), "disk.erofs")
	_, err := BuildDirectory(t.Context(), dir, disk)
	must(t, err)
	if n := takes(t, disk); n > 10<<20 {
		t.Errorf("disk takes %d bytes: the holes are filled", n)
	}
	compare(t, dir, mount(t, disk))
}

func TestImageDiskIsExact(t *testing.T) {
	dir := t.TempDir()
	everyKind(t, dir)
	for _, compression := range []string{"", "--gzip", "--zstd", "--xz"} {
		t.Run("tar"+compression, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "root.tar")
			args := []string{"-C", dir, "--format=posix", "--sparse", "--xattrs", "--xattrs-include=*", "--acls", "-cf", path, "."}
			if compression != "" {
				args = append([]string{compression}, args...)
			}
			out, err := exec.Command("tar", args...).CombinedOutput()
			if err != nil {
				t.Fatalf("tar: %v\n%s", err, out)
			}
			store, err := image.Open(t.TempDir())
			must(t, err)
			img, err := store.Import(t.Context(), path, "exact")
			must(t, err)
			d, err := cache(t).ImageDisk(t.Context(), store, img, DiskOptions{Cache: true})
			must(t, err)
			defer d.Close()
			if n := takes(t, d.Path); n > 10<<20 {
				t.Errorf("disk takes %d bytes: the holes are filled", n)
			}
			compare(t, dir, mount(t, d.Path))
		})
	}
}

// TestManyLayersAreExact changes a tree 70 times, puts each change into a layer, and compares what all make.
func TestManyLayersAreExact(t *testing.T) {
	want := t.TempDir()
	var layers [][]imagetest.Entry
	for i := range 70 {
		layer := []imagetest.Entry{reg(fmt.Sprintf("file-%d", i), fmt.Sprint("layer ", i)), reg("common", fmt.Sprint("layer ", i))}
		must(t, os.WriteFile(filepath.Join(want, fmt.Sprintf("file-%d", i)), []byte(fmt.Sprint("layer ", i)), 0o644),
			os.WriteFile(filepath.Join(want, "common"), []byte(fmt.Sprint("layer ", i)), 0o644))
		if i%3 == 2 {
			gone := fmt.Sprintf("file-%d", i-1)
			layer = append(layer, reg(".wh."+gone, ""))
			must(t, os.Remove(filepath.Join(want, gone)))
		}
		if i%5 == 4 {
			link := imagetest.Entry{}
			link.Name, link.Linkname, link.Typeflag = fmt.Sprintf("link-%d", i), fmt.Sprintf("file-%d", i/3*3), '1'
			layer = append(layer, link)
			must(t, os.Link(filepath.Join(want, link.Linkname), filepath.Join(want, link.Name)))
		}
		layers = append(layers, layer)
	}
	store, img := imported(t, layers...)
	d, err := cache(t).ImageDisk(context.Background(), store, img, DiskOptions{Cache: true})
	must(t, err)
	defer d.Close()
	got := mount(t, d.Path)
	zero := []unix.Timespec{{}, {}}
	must(t, filepath.WalkDir(want, func(path string, e fs.DirEntry, err error) error {
		must(t, err, os.Chmod(path, 0o644))
		if e.IsDir() {
			must(t, os.Chmod(path, 0o755))
		}
		return nil
	}))
	must(t, filepath.WalkDir(want, func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, unix.UtimesNanoAt(unix.AT_FDCWD, path, zero, 0))
	}))
	compare(t, want, got)
}
