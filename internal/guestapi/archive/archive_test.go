package archive

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// describe is a tree for comparison: each file's kind, mode, owner, time, content and attributes, and which names are one file.
func describe(t testing.TB, root string) string {
	t.Helper()
	var b strings.Builder
	inodes := map[uint64]string{}
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(root, path)
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		fmt.Fprintf(&b, "%q %o %d:%d %d.%09d", name, st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " %d bytes %.40q", len(content), content)
		case unix.S_IFLNK:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " -> %q", target)
		case unix.S_IFCHR, unix.S_IFBLK:
			fmt.Fprintf(&b, " device %x", st.Rdev)
		}
		if first, ok := inodes[st.Ino]; ok {
			fmt.Fprintf(&b, " = %s", first)
		} else if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			inodes[st.Ino] = name
		}
		for _, attr := range []string{"user.a", "security.capability"} {
			value := make([]byte, 100)
			if n, err := unix.Lgetxattr(path, attr, value); err == nil {
				fmt.Fprintf(&b, " %s=%x", attr, value[:n])
			}
		}
		b.WriteByte('\n')
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func write(t testing.TB, path, content string, mode os.FileMode) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o600), os.Chmod(path, mode))
}

// full makes a tree with everything that a copy carries.
func full(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "tree")
	write(t, dir+"/plain", "plain\n", 0o640)
	write(t, dir+"/empty", "", 0o000)
	write(t, dir+"/bin/setuid", "#!", 0o755|os.ModeSetuid)
	write(t, dir+"/bin/sticky", "", 0o777|os.ModeSticky|os.ModeSetgid)
	write(t, dir+"/closed/inside", "x", 0o400)
	write(t, dir+"/not utf-8 \xff\xfe\n", "bytes", 0o600)
	write(t, dir+"/"+strings.Repeat("long", 60)+"/"+strings.Repeat("name", 60), "deep", 0o600)
	must(t,
		os.Link(dir+"/plain", dir+"/bin/hard"),
		os.Symlink("../plain", dir+"/bin/relative"), os.Symlink("/etc/passwd", dir+"/absolute"), os.Symlink("nothing\xff", dir+"/broken"),
		os.Link(dir+"/broken", dir+"/broken-too"),
		unix.Mkfifo(dir+"/fifo", 0o620), unix.Mknod(dir+"/null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))),
		unix.Mknod(dir+"/disk", unix.S_IFBLK|0o660, int(unix.Mkdev(7, 300))),
		os.Lchown(dir+"/plain", 1234, 65000), os.Lchown(dir+"/absolute", 5, 6), os.Lchown(dir+"/closed", 7, 8),
		unix.Setxattr(dir+"/empty", "user.a", []byte("v\x00al"), 0), unix.Setxattr(dir+"/bin", "user.a", []byte("dir"), 0),
		unix.Setxattr(dir+"/bin/hard", "security.capability", []byte("\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0),
		os.Chmod(dir+"/closed", 0o500), os.Chmod(dir+"/bin", 0o1777),
	)
	sparse, err := os.Create(dir + "/sparse")
	must(t, err)
	_, err = sparse.WriteAt([]byte("middle"), 5<<20)
	must(t, err, sparse.Truncate(9<<20+1), sparse.Close())
	hole, err := os.Create(dir + "/hole")
	must(t, err, hole.Truncate(1<<20), hole.Close())
	old := time.Date(1960, 5, 4, 3, 2, 1, 123456789, time.UTC)
	must(t, os.Chtimes(dir+"/plain", old, old), os.Chtimes(dir+"/bin", old, old),
		unix.UtimesNanoAt(unix.AT_FDCWD, dir+"/broken", []unix.Timespec{{Sec: 9}, {Sec: 10, Nsec: 11}}, unix.AT_SYMLINK_NOFOLLOW))
	return dir
}

func openPath(t testing.TB, path string, flags int) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, unix.O_PATH|flags, 0)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

func pack(t testing.TB, source string) ([]byte, Packed) {
	t.Helper()
	var b bytes.Buffer
	packed, err := (&Packer{}).Pack(t.Context(), &b, openPath(t, source, unix.O_NOFOLLOW))
	must(t, err)
	return b.Bytes(), packed
}

func unpack(t testing.TB, b []byte, dest, name string, keep bool) error {
	t.Helper()
	u := Unpacker{Tree: Tree{Root: openPath(t, dest, unix.O_DIRECTORY)}, Dir: ".", Name: name, KeepOwner: keep}
	return u.Unpack(t.Context(), bytes.NewReader(b))
}

func TestATreeComesOutAsItWentIn(t *testing.T) {
	source, dest := full(t), t.TempDir()
	b, packed := pack(t, source)
	must(t, unpack(t, b, dest, "copy", true))
	if want, got := describe(t, source), describe(t, dest+"/copy"); got != want {
		t.Errorf("it was\n%s\nand came out as\n%s", want, got)
	}
	if packed.Content < 10<<20 || len(b) > 1<<20 {
		t.Errorf("%d bytes of files became %d", packed.Content, len(b))
	}
	var st unix.Stat_t
	must(t, unix.Stat(dest+"/copy/sparse", &st))
	if st.Blocks*512 > 1<<20 {
		t.Errorf("the holes were filled: %d blocks", st.Blocks)
	}
	// Once more over what is there.
	must(t, unpack(t, b, dest, "copy", true))
	if want, got := describe(t, source), describe(t, dest+"/copy"); got != want {
		t.Errorf("the second time it came out as\n%s", got)
	}
}

func TestWithoutOwnersFilesAreOfWhoeverTheReceiverSays(t *testing.T) {
	source, dest := full(t), t.TempDir()
	b, _ := pack(t, source)
	u := Unpacker{Tree: Tree{Root: openPath(t, dest, 0)}, Dir: ".", Name: "copy", Owner: &Owner{42, 43}}
	must(t, u.Unpack(t.Context(), bytes.NewReader(b)))
	for line := range strings.Lines(describe(t, dest+"/copy")) {
		if !strings.Contains(line, " 42:43 ") {
			t.Error(line)
		}
	}
}

func TestSocketsAreCountedAndLeftOut(t *testing.T) {
	dir := t.TempDir()
	must(t, unix.Mknod(dir+"/a.sock", unix.S_IFSOCK|0o600, 0), unix.Mknod(dir+"/b.sock", unix.S_IFSOCK|0o600, 0))
	b, packed := pack(t, dir)
	if packed.Sockets != 2 || packed.Socket != "a.sock" {
		t.Errorf("%+v", packed)
	}
	dest := t.TempDir()
	must(t, unpack(t, b, dest, "copy", false))
	if left, _ := os.ReadDir(dest + "/copy"); len(left) != 0 {
		t.Error(left)
	}
}

func TestFilesOfTheKernelAreRefused(t *testing.T) {
	for _, path := range []string{"/proc/cpuinfo", "/proc/self", "/sys"} {
		_, err := (&Packer{}).Pack(t.Context(), io.Discard, openPath(t, path, 0))
		if err == nil || !strings.Contains(err.Error(), "cannot be copied") {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestEvaluateFollowsLinksInsideOfTheTree(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/etc/real", "x", 0o600)
	must(t, os.Symlink("/etc", dir+"/abs"), os.Symlink("../../../abs/real", dir+"/etc/up"), os.Symlink("loop", dir+"/loop"),
		os.Symlink("abs/../nothing/here", dir+"/broken"), os.Symlink("etc/", dir+"/slash"))
	tree := Tree{Root: openPath(t, dir, 0), FollowLinks: true}
	for path, want := range map[string]string{
		"/abs": "/etc", "etc/up": "/etc/real", "/broken": "/nothing/here", "/abs/../abs/up": "/etc/real", "/none/x": "/none/x",
		"/slash/real": "/etc/real", "/": "/", "/../..": "/",
	} {
		if got, err := tree.Evaluate(path); got != want || err != nil {
			t.Errorf("%s leads to %q (%v), not %q", path, got, err, want)
		}
	}
	if _, err := tree.Evaluate("/loop"); !errors.Is(err, unix.ELOOP) {
		t.Errorf("a loop leads to %v", err)
	}
}

func TestAFullDiskIsAnErrorAndNothingHalfIsLeft(t *testing.T) {
	dir := t.TempDir()
	must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"))
	defer unix.Unmount(dir, unix.MNT_DETACH)
	source := t.TempDir()
	write(t, source+"/large", strings.Repeat("x", 2<<20), 0o600)
	b, _ := pack(t, source)
	err := unpack(t, b, dir, "copy", false)
	if !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), `"copy/large"`) {
		t.Errorf("a full disk is %v", err)
	}
	if left, _ := os.ReadDir(dir + "/copy"); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}
