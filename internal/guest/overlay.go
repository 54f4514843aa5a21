package guest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/guestapi"
)

// makeOverlayDirs makes the overlay's directories on a container's disk, unless they are there. The upper one is the root
// directory that the container sees, so it gets everything that the image's has, and its name last: a half-made one is made anew.
func makeOverlayDirs(image, disk string) error {
	upper := filepath.Join(disk, guestapi.UpperDir)
	if _, err := os.Lstat(upper); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	fresh := upper + ".new"
	err := errors.Join(os.RemoveAll(fresh), os.MkdirAll(filepath.Join(disk, guestapi.WorkDir), 0o700), os.Mkdir(fresh, 0o700))
	if err != nil {
		return fmt.Errorf("make the overlay's directories: %w", err)
	}
	if err := copyAttributes(image, fresh); err != nil {
		return fmt.Errorf("give the root directory its attributes: %w", err)
	}
	return os.Rename(fresh, upper)
}

// copyAttributes gives one directory the owner, mode, times and extended attributes of another.
func copyAttributes(from, to string) error {
	var st unix.Stat_t
	if err := unix.Lstat(from, &st); err != nil {
		return err
	}
	names, err := listXattrs(from)
	if err != nil {
		return err
	}
	// The owner first: a change of it takes the set-id bits and capabilities away.
	if err := errors.Join(unix.Chown(to, int(st.Uid), int(st.Gid)), unix.Chmod(to, st.Mode&0o7777)); err != nil {
		return err
	}
	for _, name := range names {
		if strings.HasPrefix(name, "trusted.overlay.") {
			continue // would be taken for what an overlay left
		}
		value := make([]byte, maxXattr)
		n, err := unix.Getxattr(from, name, value)
		if err == nil {
			err = unix.Setxattr(to, name, value[:n], 0)
		}
		if err != nil {
			return fmt.Errorf("extended attribute %s: %w", name, err)
		}
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, to, []unix.Timespec{st.Atim, st.Mtim}, 0)
}

// maxXattr is XATTR_SIZE_MAX and XATTR_LIST_MAX of limits.h(0p), in bytes.
const maxXattr = 64 << 10

func listXattrs(path string) ([]string, error) {
	list := make([]byte, maxXattr)
	n, err := unix.Listxattr(path, list)
	if n == 0 || err != nil {
		return nil, err
	}
	return strings.Split(strings.TrimSuffix(string(list[:n]), "\x00"), "\x00"), nil
}
