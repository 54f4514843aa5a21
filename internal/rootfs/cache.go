// Package rootfs makes the disks of a container: the read-only image disk, one for each image, from a cache; and the
// container's own writable disk with its command.
//
// Any number of processes may use one cache directory, and each may be killed at any moment: a disk appears whole or not at
// all. Legal order: OpenCache; then ImageDisk, BundleDisk, StartDisk, List and Prune in any order and by any goroutine. A Disk stays
// as it is until its Close, a BundleRoot is good until its. BuildDirectory and CreateWritable stand for themselves.
package rootfs

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/filelock"
	"github.com/runcvm/runcvm/internal/image"
	"github.com/runcvm/runcvm/internal/rootfs/erofs"
	"github.com/runcvm/runcvm/internal/rootfs/tree"
)

// Cache is a directory of image disks:
//
//	lock          flock: held while a temporary file is made, and while leftovers are swept
//	KEY.erofs     a disk; whoever uses it holds a shared flock on it
//	KEY.lock      flock: held by who builds that disk; gone afterwards
//	build-XXXX    a disk that is being built, or a directory on which its layers are mounted; its builder holds an exclusive flock on it
//	private-XXXX  a disk without the cache; its owner holds a shared flock on it
type Cache struct {
	// Limits bound the images of which disks are made; to be set before the first ImageDisk. The zero value stands for
	// tree.DefaultLimits.
	Limits tree.Limits

	dir string
}

const diskSuffix = ".erofs"

// OpenCache opens the cache in dir, which is made when it is missing.
func OpenCache(dir string) (*Cache, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open image disk cache: %w", err)
	}
	return &Cache{dir: dir}, nil
}

// DiskOptions say how an image disk is looked for.
type DiskOptions struct {
	// CacheKey is added to what a disk is found by: another key is another disk. It never stands for content.
	CacheKey string
	// Cache is whether to use the cache; without, the disk is built anew, and removed at Close.
	Cache bool
}

// Disk is an image disk in use. It must not be written to.
type Disk struct {
	// Path is of the disk's file. It stays valid until Close, of a disk without the cache until Opened.
	Path string
	// UUID is the file system's, lower case and with dashes.
	UUID string
	// Size is the file's length in bytes.
	Size int64

	file    *os.File
	private bool
}

// File returns the file whose lock keeps the disk from being pruned. A process that inherits it keeps the disk as well; for
// a disk without the cache that is no longer so after Close.
func (d *Disk) File() *os.File { return d.file }

// Opened tells that all who read the disk have opened it. A disk without the cache has no name any more after that:
// whatever becomes of its owner, nothing of it is left behind.
func (d *Disk) Opened() error {
	if !d.private {
		return nil
	}
	d.private = false
	return os.Remove(d.Path)
}

// Close gives the disk back. It may be called more than once.
func (d *Disk) Close() error {
	if d.file == nil {
		return nil
	}
	var err error
	if d.private {
		err = os.Remove(d.Path)
	}
	err = errors.Join(err, d.file.Close())
	d.file = nil
	return err
}

// formatVersion is part of every key: a change of what a disk looks like for the same layers needs another number.
const formatVersion = 1

// Key returns what an image's disk is found by: 64 hexadecimal digits.
func Key(img image.Image, cacheKey string) string {
	h := sha256.New()
	fmt.Fprintf(h, "image disk %d\n", formatVersion)
	for _, l := range img.Layers {
		fmt.Fprintf(h, "%s\n", l.DiffID)
	}
	fmt.Fprintf(h, "key %s\n", cacheKey)
	return hex.EncodeToString(h.Sum(nil))
}

// uuidOf makes a file system's UUID of a key: version 8 of RFC 9562, section 5.8.
func uuidOf(key string) [16]byte {
	sum := sha256.Sum256([]byte("file system " + key))
	var u [16]byte
	copy(u[:], sum[:])
	u[6] = u[6]&0x0f | 0x80
	u[8] = u[8]&0x3f | 0x80
	return u
}

// maxAttempts bounds how often a disk is looked for again because it was pruned just then.
const maxAttempts = 10

// ImageDisk returns the disk of an image, and builds it when it is not in the cache. When several processes ask for one disk
// at the same time, one builds it and the others wait.
func (c *Cache) ImageDisk(ctx context.Context, store *image.Store, img image.Image, o DiskOptions) (*Disk, error) {
	key := Key(img, o.CacheKey)
	d, err := c.disk(ctx, key, o, func(prefix string) (*os.File, error) { return c.build(ctx, store, img, key, prefix) })
	return d, wrapDisk(img.Name, err)
}

// disk returns the disk that the key stands for, and has it built where it must be: in a temporary file, which is locked.
func (c *Cache) disk(ctx context.Context, key string, o DiskOptions, build func(prefix string) (*os.File, error)) (*Disk, error) {
	if !o.Cache {
		return c.private(ctx, build)
	}
	for range maxAttempts {
		d, err := c.open(ctx, key)
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return d, err
		}
		if err := c.buildOnce(ctx, key, build); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("it was pruned %d times as soon as it was built", maxAttempts)
}

func wrapDisk(of string, err error) error {
	if err != nil {
		return fmt.Errorf("image disk of %s: %w", of, err)
	}
	return nil
}

func (c *Cache) path(name string) string { return filepath.Join(c.dir, name) }

// open opens a disk of the cache; fs.ErrNotExist when it has none.
func (c *Cache) open(ctx context.Context, key string) (*Disk, error) {
	path := c.path(key + diskSuffix)
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	d, err := newDisk(ctx, f)
	if err != nil {
		f.Close()
		return nil, err
	}
	settle(path)
	return d, nil
}

// newDisk takes a shared lock on f, unless it has been pruned meanwhile, which is fs.ErrNotExist. The caller closes f after an
// error.
func newDisk(ctx context.Context, f *os.File) (*Disk, error) {
	if err := filelock.Take(ctx, f, unix.LOCK_SH); err != nil {
		return nil, fmt.Errorf("lock image disk %s: %w", f.Name(), err)
	}
	if lost, err := isLost(f); err != nil || lost {
		return nil, cmp.Or(err, fs.ErrNotExist)
	}
	size, err := filelock.SizeAtPath(f)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fs.ErrNotExist
	}
	if err != nil {
		return nil, fmt.Errorf("image disk %s: %w", f.Name(), err)
	}
	info, err := erofs.ReadInfo(f)
	if err == nil && info.Size != size {
		err = fmt.Errorf("it has %d bytes instead of %d", size, info.Size)
	}
	if err != nil {
		return nil, fmt.Errorf("image disk %s is damaged, remove it: %w", f.Name(), err)
	}
	return &Disk{Path: f.Name(), UUID: info.UUID, Size: info.Size, file: f}, nil
}

// buildOnce puts a disk into the cache, unless somebody else has done so meanwhile.
func (c *Cache) buildOnce(ctx context.Context, key string, build func(prefix string) (*os.File, error)) error {
	lock, err := filelock.Path(ctx, c.path(key+".lock"))
	if err != nil {
		return err
	}
	defer func() { _ = filelock.Drop(lock) }()
	path := c.path(key + diskSuffix)
	if there, err := has(path); err != nil || there {
		return err
	}
	start := time.Now()
	f, err := build("build-")
	if err != nil {
		return err
	}
	defer f.Close()
	err = f.Sync() // what has its name must be whole even after a power failure
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	slog.DebugContext(ctx, "Built image disk", "path", path, "duration", time.Since(start))
	return syncDir(c.dir)
}

// private builds a disk that is no part of the cache.
func (c *Cache) private(ctx context.Context, build func(prefix string) (*os.File, error)) (*Disk, error) {
	f, err := build("private-")
	if err != nil {
		return nil, err
	}
	d, err := newDisk(ctx, f) // from the exclusive lock to a shared one, as of any disk in use
	if err != nil {
		return nil, errors.Join(err, os.Remove(f.Name()), f.Close())
	}
	d.private = true
	return d, nil
}

// build makes an image's disk in a temporary file, which is locked.
func (c *Cache) build(ctx context.Context, store *image.Store, img image.Image, key, prefix string) (*os.File, error) {
	if blob, ok := store.Disk(img); ok {
		return c.link(ctx, blob, prefix)
	}
	return c.fill(ctx, prefix, func(f *os.File) error { return buildImage(ctx, store, img, f, uuidOf(key), c.Limits) })
}

// fill makes a disk in a temporary file, which is locked.
func (c *Cache) fill(ctx context.Context, prefix string, write func(f *os.File) error) (*os.File, error) {
	f, err := c.temp(ctx, func() (*os.File, error) { return os.CreateTemp(c.dir, prefix+"*"+diskSuffix) }, unix.LOCK_EX)
	if err != nil {
		return nil, err
	}
	if err := write(f); err != nil {
		return nil, errors.Join(err, os.Remove(f.Name()), f.Close())
	}
	return f, nil
}

// link gives a disk that the image store has a name in the cache, or copies it, when the two lie in different file systems.
func (c *Cache) link(ctx context.Context, blob, prefix string) (*os.File, error) {
	// Others may have the same file as a disk, under other keys, so only a shared lock can be had.
	f, err := c.temp(ctx, func() (*os.File, error) {
		path := c.path(prefix + rand.Text() + diskSuffix)
		if err := os.Link(blob, path); err != nil {
			return nil, err
		}
		return os.Open(path)
	}, unix.LOCK_SH)
	if !errors.Is(err, unix.EXDEV) && !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EMLINK) {
		return f, err
	}
	return c.fill(ctx, prefix, func(f *os.File) error { return copySparse(ctx, f, blob) })
}

// temp makes a temporary file and takes a lock on it before anybody could take it for a leftover.
func (c *Cache) temp(ctx context.Context, create func() (*os.File, error), how int) (*os.File, error) {
	lock, err := filelock.Path(ctx, c.path("lock"))
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	c.sweep(ctx)
	f, err := create()
	if err != nil {
		return nil, err
	}
	if err := filelock.Take(ctx, f, how); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", f.Name(), err), os.Remove(f.Name()), f.Close())
	}
	return f, nil
}

// sweep removes what killed processes left, and disks that nobody can ask for any more. The caller holds the cache's lock.
func (c *Cache) sweep(ctx context.Context) {
	files, err := os.ReadDir(c.dir)
	if err != nil {
		return
	}
	for _, e := range files {
		why := "its process was killed"
		if !strings.HasPrefix(e.Name(), "build-") && !strings.HasPrefix(e.Name(), "private-") {
			if why = "its layers are gone"; !outlived(c.path(e.Name())) {
				continue
			}
		}
		if removed, err := filelock.RemoveUnlocked(c.path(e.Name())); err != nil {
			slog.WarnContext(ctx, "Can't remove a left disk", "path", c.path(e.Name()), "why", why, "error", err)
		} else if removed {
			slog.DebugContext(ctx, "Removed a left disk", "path", c.path(e.Name()), "why", why)
		}
	}
}

// DiskInfo is a disk of the cache.
type DiskInfo struct {
	// Key is what Key returns for the image of which the disk was made.
	Key  string
	Path string
	// Size is the file's length, Used what it takes on the host's disk, both in bytes.
	Size, Used int64
	// Built is when.
	Built time.Time
	// InUse says that somebody had the disk open at that moment.
	InUse bool
}

// List returns the disks of the cache, ordered by key.
func (c *Cache) List(ctx context.Context) ([]DiskInfo, error) {
	files, err := os.ReadDir(c.dir)
	if err != nil {
		return nil, fmt.Errorf("list image disks: %w", err)
	}
	var disks []DiskInfo
	for _, e := range files {
		key, ok := strings.CutSuffix(e.Name(), diskSuffix)
		if !ok || len(key) != 2*sha256.Size {
			continue
		}
		d := DiskInfo{Key: key, Path: c.path(e.Name())}
		f, err := os.Open(d.Path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list image disks: %w", err)
		}
		var st unix.Stat_t
		err = unix.Fstat(int(f.Fd()), &st)
		d.InUse = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, fmt.Errorf("list image disks: %w", err)
		}
		d.Size, d.Used, d.Built = st.Size, st.Blocks*512, time.Unix(st.Mtim.Unix())
		disks = append(disks, d)
	}
	return disks, ctx.Err()
}

// Prune removes every disk that nobody uses, and what killed processes left, and returns the disks that it removed.
func (c *Cache) Prune(ctx context.Context) ([]DiskInfo, error) {
	lock, err := filelock.Path(ctx, c.path("lock"))
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	c.sweep(ctx)
	disks, err := c.List(ctx)
	if err != nil {
		return nil, err
	}
	var gone []DiskInfo
	for _, d := range disks {
		removed, err := filelock.RemoveUnlocked(d.Path)
		if err != nil {
			return gone, fmt.Errorf("prune image disks: %w", err)
		}
		if removed {
			gone = append(gone, d)
		}
	}
	return gone, nil
}
