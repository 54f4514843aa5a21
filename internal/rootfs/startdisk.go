package rootfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/guestapi"
	"github.com/runcvm/runcvm/internal/rootfs/erofs"
	"github.com/runcvm/runcvm/internal/rootfs/tree"
)

// MaxBinds and MaxBindFiles bound what all files and directories together take that a start copies from the host: bytes, and
// files with directories. It is read at each start, and the guest's start waits for it.
const (
	MaxBinds     = 256 << 20
	MaxBindFiles = 100_000
)

// StartDisk makes the read-only disk of one start, which holds what the host has for it: what the bundle's upper layer, and a
// lower one of this container's own, hold now, as a layer over the image disk; and copies of the host's files and directories at
// the paths binds, the one with index i at guestapi.BindSource(i). It returns nil where there is nothing of all that. The disk is
// no part of the cache: it goes at Close, and its name at Opened.
//
// The layers are read while they are mounted, and as they lie on the disk: a whiteout stays one.
func (c *Cache) StartDisk(ctx context.Context, r *BundleRoot, binds []string) (*Disk, error) {
	empty := false
	d, err := c.private(ctx, func(prefix string) (*os.File, error) {
		return c.fill(ctx, prefix, func(f *os.File) (err error) {
			empty, err = c.writeStart(ctx, r, binds, f)
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

func (c *Cache) writeStart(ctx context.Context, r *BundleRoot, binds []string, f *os.File) (empty bool, err error) {
	b := erofs.New(f)
	root := tree.New().Root()
	upper, err := c.readUpper(ctx, r, b)
	if err != nil {
		return false, err
	}
	if upper != nil && len(upper.Children) > 0 {
		root.Children[guestapi.UpperDir] = upper
	}
	room := tree.NewRoom(MaxBinds, MaxBindFiles)
	if len(binds) > 0 {
		root.Children[guestapi.BindsDir] = tree.New().Root()
	}
	for i, path := range binds {
		n, err := readBind(ctx, path, b, room)
		if err != nil {
			return false, fmt.Errorf("copy %s for the guest: %w", path, err)
		}
		root.Children[guestapi.BindsDir].Children[strconv.Itoa(i)] = n
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
	return tree.Stack(private, upper), nil
}

// readBind reads a file or a directory of the host, with what is mounted below it.
func readBind(ctx context.Context, path string, b *erofs.Builder, room *tree.Room) (*erofs.Inode, error) {
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
		err = fmt.Errorf("%w: it is copied at each start, together with the container's other binds; put it into the image, or mount less of it", err)
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
