package guest

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/guestapi"
)

func TestTheUpperDirectoryIsLikeTheImagesRoot(t *testing.T) {
	image, disk := t.TempDir(), t.TempDir()
	when := []unix.Timespec{{Sec: 1, Nsec: 2}, {Sec: -5, Nsec: 7}}
	for _, err := range []error{
		unix.Chown(image, 70_000, 3_000_000_000), unix.Chmod(image, 0o1751), unix.Setxattr(image, "trusted.kind", []byte("a\x00b"), 0),
		unix.Setxattr(image, "user.empty", nil, 0), unix.UtimesNanoAt(unix.AT_FDCWD, image, when, 0),
		os.Mkdir(filepath.Join(disk, "upper.new"), 0o700), // of a guest that was killed
		makeOverlayDirs(image, disk),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	upper := filepath.Join(disk, guestapi.UpperDir)
	var st unix.Stat_t
	if err := unix.Lstat(upper, &st); err != nil {
		t.Fatal(err)
	}
	if st.Mode != unix.S_IFDIR|0o1751 || st.Uid != 70_000 || st.Gid != 3_000_000_000 || st.Mtim != when[1] {
		t.Errorf("upper is %+v", st)
	}
	value := make([]byte, 10)
	if n, err := unix.Getxattr(upper, "trusted.kind", value); err != nil || string(value[:n]) != "a\x00b" {
		t.Errorf("trusted.kind is %q, %v", value[:n], err)
	}
	if n, err := unix.Getxattr(upper, "user.empty", value); err != nil || n != 0 {
		t.Errorf("user.empty has %d bytes, %v", n, err)
	}
	// What the container made of its root stays.
	if err := os.Chmod(upper, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := makeOverlayDirs(image, disk); err != nil {
		t.Fatal(err)
	}
	if err := unix.Lstat(upper, &st); err != nil || st.Mode != unix.S_IFDIR|0o700 {
		t.Errorf("upper is %+v, %v", st, err)
	}
	entries, err := os.ReadDir(disk)
	if err != nil || len(entries) != 2 {
		t.Errorf("the disk has %v, %v", entries, err)
	}
}
