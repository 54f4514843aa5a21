package rootfs

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/rootfs/erofs"
	"github.com/runcvm/runcvm/internal/rootfs/tree"
)

// BundleDisk returns the image disk of a bundle's root: from the cache, where the root's layers are those of a store and known by
// their identity, else built, as it is of a root without layers. The caller closes the root, when the disk of the start is made.
func (c *Cache) BundleDisk(ctx context.Context, r *BundleRoot, o DiskOptions) (*Disk, error) {
	if r.isDirectory() {
		d, err := c.private(ctx, func(prefix string) (*os.File, error) {
			return c.fill(ctx, prefix, func(f *os.File) error { return c.writeOpen(ctx, r.root, f) })
		})
		return d, wrapDisk(r.root.Name(), err)
	}
	key := keyOfLayers(r.layers, r.options, o.CacheKey)
	o.Cache = o.Cache && r.shared()
	d, err := c.disk(ctx, key, o, func(prefix string) (*os.File, error) {
		return c.fill(ctx, prefix, func(f *os.File) error { return c.writeLayers(ctx, r, f, uuidOf(key)) })
	})
	return d, wrapDisk(r.root.Name(), err)
}

func (c *Cache) room() *tree.Room {
	limits := c.Limits.WithDefaults()
	return tree.NewRoom(limits.Size, limits.Entries)
}

func (c *Cache) writeOpen(ctx context.Context, dir, f *os.File) error {
	b := erofs.New(f)
	root, err := tree.Read(ctx, dir, b, tree.Options{Room: c.room()})
	if err != nil {
		return err
	}
	_, err = b.Finish(root, tree.RandomUUID())
	return err
}

// writeLayers writes what the layers are together. How they hide and refer to each other is the kernel's business.
func (c *Cache) writeLayers(ctx context.Context, r *BundleRoot, f *os.File, id [16]byte) error {
	b := erofs.New(f)
	root := tree.New().Root()
	if len(r.layers) > 0 {
		err := c.withLayers(ctx, r, func(merged *os.File) (err error) {
			root, err = tree.Read(ctx, merged, b, tree.Options{Room: c.room()})
			return err
		})
		if err != nil {
			return err
		}
		noteLayer(f, r.layers[0])
	}
	_, err := b.Finish(root, id)
	return err
}

// withLayers gives f the root of what the layers of the image disk are together.
func (c *Cache) withLayers(ctx context.Context, r *BundleRoot, f func(merged *os.File) error) (err error) {
	at, err := c.temp(ctx, func() (*os.File, error) {
		at, err := os.MkdirTemp(c.dir, "build-*")
		if err != nil {
			return nil, err
		}
		return os.Open(at)
	}, unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(at.Name()), at.Close()) }()
	merged, err := mountLayers(r.layers, r.options, at.Name())
	if err != nil {
		return err
	}
	return errors.Join(f(merged), merged.Close())
}

// layerAttribute notes at a disk of the cache the topmost of its layers, so that it is known to be of no more use when its
// store has removed that: nobody can ask for it again.
const layerAttribute = "user.runcvm.layer"

type layerNote struct {
	Path     string
	Identity identity
}

// noteLayer does not fail: without a note the disk is what others are.
func noteLayer(f *os.File, l layerDir) {
	if b, err := json.Marshal(layerNote{l.path, l.id}); err == nil {
		_ = unix.Fsetxattr(int(f.Fd()), layerAttribute, b, 0)
	}
}

// outlived says whether the layers of which a disk was made are gone.
func outlived(path string) bool {
	buf := make([]byte, 8<<10)
	n, err := unix.Lgetxattr(path, layerAttribute, buf)
	var note layerNote
	if err != nil || json.Unmarshal(buf[:n], &note) != nil {
		return false
	}
	l, err := openLayer(note.Path)
	if err != nil {
		return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR)
	}
	defer l.dir.Close()
	return l.id != note.Identity || !strings.HasPrefix(l.path, "/")
}
