package rootfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/guestapi"
	"github.com/runcvm/runcvm/internal/rootfs/erofs"
	"github.com/runcvm/runcvm/internal/rootfs/tree"
)

// MaxCopies and MaxCopiedFiles bound what all files and directories together take that a start copies from the host: bytes, and
// files with directories. They are read at each start, which waits for it.
const (
	MaxCopies      = 256 << 20
	MaxCopiedFiles = 100_000
)

// Copy is a file, or a directory with all below it and what is mounted there, that a start copies from the host.
type Copy struct {
	// Source is its path on the host, which may lead through symbolic links.
	Source string
	// Name is that of the copy, in guestapi.CopiesDir.
	Name string
}

// StartDisk makes the read-only disk of one start, which holds what the host has for it: what the bundle's upper layer, and a
// lower one of this container's own, hold now, as a layer over the image disk; and the copies. It returns nil where there is
// nothing of all that. The disk is no part of the cache: it goes at Close, and its name at Opened. r may be nil.
//
// The layers are read while they are mounted, and as they lie on the disk: a whiteout stays one.
func (c *Cache) StartDisk(ctx context.Context, r *BundleRoot, copies []Copy) (*Disk, error) {
	empty := false
	d, err := c.private(ctx, func(prefix string) (*os.File, error) {
		return c.fill(ctx, prefix, func(f *os.File) (err error) {
			empty, err = c.writeStart(ctx, r, copies, f)
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("disk of the start: %w", err)
	}
	if empty {
		return nil, d.Close()
	}
	return d, nil
}

func (c *Cache) writeStart(ctx context.Context, r *BundleRoot, copies []Copy, f *os.File) (empty bool, err error) {
	b := erofs.New(f)
	root := tree.New().Root()
	upper, err := c.readUpper(ctx, r, b)
	if err != nil {
		return false, err
	}
	if upper != nil && len(upper.Children) > 0 {
		root.Children[guestapi.UpperDir] = upper
	}
	if len(copies) > 0 {
		at := root
		for name := range strings.SplitSeq(guestapi.CopiesDir, "/") {
			at.Children[name] = tree.New().Root()
			at = at.Children[name]
		}
		room := tree.NewRoom(MaxCopies, MaxCopiedFiles)
		for _, copied := range copies {
			n, err := readCopied(ctx, copied.Source, b, room)
			if err == nil {
				err = n.Check(copied.Name)
			}
			if err != nil {
				return false, fmt.Errorf("copy %s for the guest: %w", copied.Source, err)
			}
			at.Children[copied.Name] = n
		}
	}
	_, err = b.Finish(root, tree.RandomUUID())
	return len(root.Children) == 0, err
}

// readUpper reads the layers that are only this container's, the one on top of the other; nil without any.
func (c *Cache) readUpper(ctx context.Context, r *BundleRoot, b *erofs.Builder) (*erofs.Inode, error) {
	if r == nil || r.upper == nil {
		return nil, nil
	}
	options := tree.Options{Upper: r.asUpper(), Room: c.room()}
	upper, err := tree.Read(ctx, r.upper.dir, b, options)
	if err != nil || r.private == nil {
		return upper, err
	}
	private, err := tree.Read(ctx, r.private.dir, b, options)
	if err != nil {
		return nil, err
	}
	upper = tree.Stack(private, upper)
	return upper, c.dropWhiteouts(ctx, r, upper)
}

// dropWhiteouts takes those away that hid something of the private layer only. In a directory that the image does not have,
// overlayfs would show them.
func (c *Cache) dropWhiteouts(ctx context.Context, r *BundleRoot, upper *erofs.Inode) error {
	if !tree.HasWhiteouts(upper) {
		return nil
	}
	if len(r.layers) == 0 {
		return tree.DropWhiteouts(upper, func(string) (bool, error) { return false, nil })
	}
	return c.withLayers(ctx, r, func(merged *os.File) error {
		return tree.DropWhiteouts(upper, func(path string) (bool, error) { return hasPath(merged, path) })
	})
}

// hasPath says whether there is something at a path below a directory.
func hasPath(dir *os.File, path string) (bool, error) {
	fd, err := unix.Openat2(int(dir.Fd()), path, &unix.OpenHow{Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS})
	switch {
	case err == nil:
		return true, unix.Close(fd)
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		return false, nil
	}
	return false, fmt.Errorf("look for %s in the layers: %w", path, err)
}

// readCopied reads a file or a directory of the host, with what is mounted below it.
func readCopied(ctx context.Context, path string, b *erofs.Builder, room *tree.Room) (*erofs.Inode, error) {
	// Without O_NONBLOCK the open of a FIFO would wait for a writer; a device is not opened at all.
	f, err := os.OpenFile(path, unix.O_PATH, 0)
	if err != nil {
		return nil, notFound(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.IsDir() && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("it is a %s, of which there can be no copy", kindOf(info.Mode()))
	}
	opened, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer opened.Close()
	var n *erofs.Inode
	if info.IsDir() {
		n, err = tree.Read(ctx, opened, b, tree.Options{Mounts: true, Whiteouts: true, Room: room})
	} else {
		n, err = tree.ReadFile(opened, b, room)
	}
	if errors.Is(err, tree.ErrRoom) {
		err = fmt.Errorf("%w: it is copied at each start, together with all that is bound read-only; put it into the image, or bind less "+
			"of it", err)
	}
	return n, err
}

func kindOf(mode os.FileMode) string {
	switch {
	case mode&os.ModeSocket != 0:
		return "socket"
	case mode&os.ModeNamedPipe != 0:
		return "FIFO"
	}
	return "device"
}
