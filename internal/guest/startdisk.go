package guest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/guestapi"
)

// mountStart mounts the disk of this start, and makes what was copied from the host writable, for as long as the guest lives: an
// engine binds /etc/hosts so that a container may write to it.
func (c *container) mountStart(ctx context.Context, uuid string) error {
	disk, err := findDisk(ctx, "erofs", uuid)
	if err != nil {
		return err
	}
	if err := mountAt(mount{disk, c.startDir(), "erofs", unix.MS_RDONLY | unix.MS_NOATIME, ""}); err != nil {
		return err
	}
	copies := filepath.Join(c.startDir(), guestapi.CopiesDir)
	if !isDirectory(copies) {
		return nil
	}
	written := filepath.Join(c.dir, "copies-written")
	upper, work := filepath.Join(written, guestapi.UpperDir), filepath.Join(written, guestapi.WorkDir)
	for _, dir := range []string{upper, work} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	return mountAt(mount{"overlay", c.copiesDir(), "overlay", 0,
		fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s,xino=on,metacopy=off,index=off", copies, upper, work)})
}

// layers are the overlay's lower directories, the topmost first.
func (c *container) layers() []string {
	if upper := filepath.Join(c.startDir(), guestapi.UpperDir); isDirectory(upper) {
		return []string{upper, c.imageDir()}
	}
	return []string{c.imageDir()}
}

func isDirectory(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.IsDir()
}

// mountAt mounts on a directory, which is made.
func mountAt(m mount) error {
	if err := os.MkdirAll(m.target, 0o755); err != nil {
		return fmt.Errorf("mount %s: %w", m.target, err)
	}
	if err := unix.Mount(m.source, m.target, m.fstype, m.flags, m.options); err != nil {
		return fmt.Errorf("mount %s of %s on %s: %w", m.fstype, m.source, m.target, err)
	}
	return nil
}
