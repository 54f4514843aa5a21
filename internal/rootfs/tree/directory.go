package tree

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/docker/go-units"
	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/rootfs/erofs"
)

// ReadDirectory reads a directory of the host into a tree, and the contents of its files into b, on all cores. It must not
// change meanwhile; where that shows it is an error. A mount point below it is refused: whether what is mounted there
// belongs to the tree is not for us to guess.
func ReadDirectory(ctx context.Context, path string, b *erofs.Builder) (*erofs.Inode, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return Read(ctx, f, b, Options{})
}

// Options say what a directory of the host is, and how much of it may be read.
type Options struct {
	// Upper says that it is the upper layer, or one lower layer, of an overlay; nil for any other directory.
	Upper *Upper
	// Mounts says that what is mounted below the directory belongs to it; else a mount point is an error.
	Mounts bool
	// Whiteouts says that a character device 0:0 is one like any other: nobody lays an overlay over the tree.
	Whiteouts bool
	// Room is what the tree may take; nil for DefaultLimits.
	Room *Room
}

// Read is ReadDirectory of an open directory. Nothing but what lies below it is ever opened, whatever becomes of it meanwhile:
// no path goes through a symbolic link.
func Read(ctx context.Context, dir *os.File, b *erofs.Builder, o Options) (*erofs.Inode, error) {
	if o.Room == nil {
		o.Room = NewRoom(DefaultLimits.Size, DefaultLimits.Entries)
	}
	src := &source{root: int(dir.Fd()), name: dir.Name(), upper: o.Upper, mounts: o.Mounts, whiteouts: o.Whiteouts}
	var st unix.Statx_t
	if err := unix.Statx(src.root, "", unix.AT_EMPTY_PATH, unix.STATX_BASIC_STATS, &st); err != nil {
		return nil, fmt.Errorf("stat %s: %w", src.name, err)
	}
	w := &walker{ctx: ctx, b: b, room: o.Room, links: map[fileID]*erofs.Inode{}}
	w.wake = sync.NewCond(&w.mu)
	root := inodeOf(&st)
	first := job{src, ".", root}
	err := src.attributes(&first, src.root, ".")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", src.name, err)
	}
	w.jobs = []job{first}
	stop := context.AfterFunc(ctx, func() { w.fail(ctx.Err()) })
	defer stop()
	var g sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		g.Go(w.work)
	}
	g.Wait()
	runtime.KeepAlive(dir)
	return root, w.err
}

// Room is what is left for the trees that share it. It may be used by goroutines at the same time.
type Room struct {
	size, entries       atomic.Int64
	maxSize, maxEntries int64
}

// NewRoom returns room for so many bytes in files, holes counted, and so many files and directories.
func NewRoom(size, entries int64) *Room { return &Room{maxSize: size, maxEntries: entries} }

// ErrRoom says that a directory is larger than it may be.
var ErrRoom = errors.New("it is too large")

func (r *Room) take(size int64) error {
	if r.entries.Add(1) > r.maxEntries {
		return fmt.Errorf("%w: more than %d files and directories", ErrRoom, r.maxEntries)
	}
	if size > r.maxSize || r.size.Add(size) > r.maxSize {
		return fmt.Errorf("%w: more than %s in files", ErrRoom, units.BytesSize(float64(r.maxSize)))
	}
	return nil
}

// WriteDirectory makes an EROFS disk of a directory of the host in f, which must be empty, as ReadDirectory reads it. The file
// system's UUID is random.
func WriteDirectory(ctx context.Context, path string, f *os.File) error {
	b := erofs.New(f)
	root, err := ReadDirectory(ctx, path, b)
	if err != nil {
		return err
	}
	_, err = b.Finish(root, RandomUUID())
	return err
}

// RandomUUID returns a file system's UUID that no other has: version 4 of RFC 9562, section 5.4.
func RandomUUID() [16]byte {
	var id [16]byte
	rand.Read(id[:]) // never fails
	id[6] = id[6]&0x0f | 0x40
	id[8] = id[8]&0x3f | 0x80
	return id
}

// fileID is what two names of one file have in common.
type fileID struct {
	major, minor uint32
	ino          uint64
}

// source is a directory whose tree is read.
type source struct {
	root int    // its descriptor
	name string // for errors

	upper             *Upper
	mounts, whiteouts bool
}

// open opens what lies at a path below the directory.
func (s *source) open(path string, flags uint64) (int, error) {
	return unix.Openat2(s.root, path, &unix.OpenHow{
		Flags:   flags | unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
}

// job is a directory to read.
type job struct {
	src  *source
	path string // below src
	node *erofs.Inode
}

func (j job) join(name string) string { return filepath.Join(j.src.name, j.path, name) }

type walker struct {
	ctx  context.Context
	b    *erofs.Builder
	room *Room

	mu    sync.Mutex
	wake  *sync.Cond // jobs, busy or err changed
	jobs  []job
	busy  int // workers that may add jobs
	err   error
	links map[fileID]*erofs.Inode // files with several names
}

func (w *walker) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
	}
	w.wake.Broadcast()
}

// next returns a directory to read; false when there is none left, or after an error.
func (w *walker) next() (job, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.jobs) == 0 && w.busy > 0 && w.err == nil {
		w.wake.Wait()
	}
	if len(w.jobs) == 0 || w.err != nil {
		return job{}, false
	}
	j := w.jobs[len(w.jobs)-1]
	w.jobs = w.jobs[:len(w.jobs)-1]
	w.busy++
	return j, true
}

// done adds the directories that a job has found.
func (w *walker) done(found []job) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.jobs = append(w.jobs, found...)
	w.busy--
	w.wake.Broadcast()
}

func (w *walker) work() {
	data := w.b.DataWriter()
	for {
		j, ok := w.next()
		if !ok {
			break
		}
		found, err := w.readDir(data, j)
		if err != nil {
			w.fail(err)
		}
		w.done(found)
	}
	if err := data.Flush(); err != nil {
		w.fail(err)
	}
}

// readDir reads one directory and its files, and returns the directories in it.
func (w *walker) readDir(data *erofs.DataWriter, j job) ([]job, error) {
	fd, err := j.src.open(j.path, unix.O_DIRECTORY)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", j.join(""), err)
	}
	defer unix.Close(fd)
	names, err := readNames(fd)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", j.join(""), err)
	}
	var found []job
	for _, name := range names {
		if err := w.ctx.Err(); err != nil {
			return nil, err
		}
		sub := job{src: j.src, path: filepath.Join(j.path, name)}
		if err := w.readFile(data, fd, name, &sub); err != nil {
			return nil, fmt.Errorf("%s: %w", j.join(name), err)
		}
		if j.node.Children[name] = sub.node; sub.node.IsDir() {
			found = append(found, sub)
		}
	}
	return found, nil
}

func readNames(fd int) ([]string, error) {
	var names []string
	buf := make([]byte, 32<<10)
	for {
		n, err := unix.ReadDirent(fd, buf)
		if err != nil {
			return nil, err
		}
		if n == 0 {
			return names, nil
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names)
	}
}

// readFile makes the inode of a file, with its content. A directory gets its entries later. Of a file with several names the
// first to come makes the inode; the others get it while it may not be complete.
func (w *walker) readFile(data *erofs.DataWriter, dir int, name string, j *job) error {
	var st unix.Statx_t
	if err := unix.Statx(dir, name, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS, &st); err != nil {
		return fmt.Errorf("stat: %w", err)
	}
	if st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0 && !j.src.mounts {
		return errors.New("is a mount point: unmount it, or import a tar made with --one-file-system")
	}
	n := inodeOf(&st)
	j.node = n
	if isWhiteout(n) && j.src.upper == nil && !j.src.whiteouts {
		return errors.New("is a character device 0:0, which overlayfs in the guest would take for a whiteout: remove it")
	}
	if !n.IsDir() && st.Nlink > 1 {
		id := fileID{st.Dev_major, st.Dev_minor, st.Ino}
		w.mu.Lock()
		known := w.links[id]
		if known == nil {
			w.links[id] = n
		}
		w.mu.Unlock()
		if known != nil {
			j.node = known
			return nil
		}
	}
	var size int64
	if n.IsRegular() {
		size = int64(min(st.Size, math.MaxInt64))
	}
	if err := w.room.take(size); err != nil {
		return err
	}
	from := j.src
	err := from.attributes(j, dir, name)
	switch {
	case err != nil:
	case n.IsSymlink():
		n.Target, err = readlink(dir, name)
	case n.IsRegular() && j.src != from:
		n.Data, err = j.src.readContent(data, j.path)
	case n.IsRegular() && st.Size > 0:
		n.Data, err = readContent(data, dir, name, &st)
	}
	if err != nil {
		return err
	}
	return n.Check(name)
}

// attributes reads a file's extended attributes. What only its overlay knows of it changes the job: see Upper.
func (s *source) attributes(j *job, dir int, name string) error {
	all, err := xattrsOf(dir, name)
	if err != nil || s.upper == nil {
		j.node.Xattrs = slices.DeleteFunc(all, func(x erofs.Xattr) bool {
			return strings.HasPrefix(x.Name, overlayNotes) // overlayfs's own notes are no part of the tree
		})
		return err
	}
	return s.upper.interpret(j, all)
}

// inodeOf makes an inode of what stat says.
func inodeOf(st *unix.Statx_t) *erofs.Inode {
	n := &erofs.Inode{
		Mode: uint32(st.Mode), UID: st.Uid, GID: st.Gid, Mtime: st.Mtime.Sec, MtimeNsec: st.Mtime.Nsec,
		Major: st.Rdev_major, Minor: st.Rdev_minor,
	}
	if n.IsDir() {
		n.Children = map[string]*erofs.Inode{}
	}
	return n
}

func readlink(dir int, name string) (string, error) {
	buf := make([]byte, 4096)
	n, err := unix.Readlinkat(dir, name, buf)
	if err != nil {
		return "", fmt.Errorf("read link: %w", err)
	}
	return string(buf[:n]), nil
}

// xattrsOf reads the extended attributes of a file in an open directory; a symbolic link is not followed.
func xattrsOf(dir int, name string) ([]erofs.Xattr, error) {
	path := fmt.Sprintf("/proc/self/fd/%d/%s", dir, name)
	return readXattrs(func(list []byte) (int, error) { return unix.Llistxattr(path, list) },
		func(name string, value []byte) (int, error) { return unix.Lgetxattr(path, name, value) })
}

func readXattrs(listTo func([]byte) (int, error), get func(string, []byte) (int, error)) ([]erofs.Xattr, error) {
	var small [256]byte
	list := small[:]
	n, err := listTo(list)
	if errors.Is(err, unix.ERANGE) {
		list = make([]byte, 64<<10) // XATTR_LIST_MAX
		n, err = listTo(list)
	}
	if errors.Is(err, unix.EOPNOTSUPP) || err == nil && n == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list extended attributes: %w", err)
	}
	var attrs []erofs.Xattr
	value := make([]byte, 64<<10) // XATTR_SIZE_MAX
	for name := range bytes.SplitSeq(bytes.TrimSuffix(list[:n], []byte{0}), []byte{0}) {
		n, err := get(string(name), value)
		if err != nil {
			return nil, fmt.Errorf("read extended attribute %q: %w", name, err)
		}
		attrs = append(attrs, erofs.Xattr{Name: string(name), Value: string(value[:n])})
	}
	return attrs, nil
}

// readContent stores a file's content; of a sparse file only what is not a hole is read.
func readContent(data *erofs.DataWriter, dir int, name string, st *unix.Statx_t) (erofs.Data, error) {
	// Without O_NONBLOCK the open of what has become a FIFO meanwhile would wait for ever.
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return erofs.Data{}, fmt.Errorf("open: %w", err)
	}
	defer unix.Close(fd)
	return storeContent(data, file(fd), st)
}

// storeContent stores the content of an open file.
func storeContent(data *erofs.DataWriter, f file, st *unix.Statx_t) (_ erofs.Data, err error) {
	size := int64(st.Size)
	var d erofs.Data
	if int64(st.Blocks)*512 < size {
		d, err = data.WriteSparse(f, size, func(offset int64) (int64, error) { return f.nextData(offset, size) })
	} else {
		d, err = data.Write(io.NewSectionReader(f, 0, size), size)
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = errors.New("became shorter while it was read")
	}
	return d, err
}

// file reads a descriptor without the runtime's poller, which regular files have no use for.
type file int

func (f file) ReadAt(p []byte, at int64) (int, error) {
	done := 0
	for done < len(p) {
		n, err := unix.Pread(int(f), p[done:], at+int64(done))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return done, err
		}
		if n == 0 {
			return done, io.EOF
		}
		done += n
	}
	return done, nil
}

// nextData returns the offset of the next byte at or after offset that is not in a hole; size when there is none.
func (f file) nextData(offset, size int64) (int64, error) {
	at, err := unix.Seek(int(f), offset, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return size, nil
	case errors.Is(err, unix.EINVAL):
		return offset, nil // the file system knows no holes
	}
	return at, err
}

// ReadFile makes the inode of an open regular file, with its content.
func ReadFile(f *os.File, b *erofs.Builder, room *Room) (*erofs.Inode, error) {
	var st unix.Statx_t
	if err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_BASIC_STATS, &st); err != nil {
		return nil, fmt.Errorf("stat: %w", err)
	}
	if err := room.take(int64(min(st.Size, math.MaxInt64))); err != nil {
		return nil, err
	}
	n := inodeOf(&st)
	var err error
	n.Xattrs, err = readXattrs(func(list []byte) (int, error) { return unix.Flistxattr(int(f.Fd()), list) },
		func(name string, value []byte) (int, error) { return unix.Fgetxattr(int(f.Fd()), name, value) })
	if err != nil {
		return nil, err
	}
	if st.Size > 0 {
		data := b.DataWriter()
		if n.Data, err = storeContent(data, file(f.Fd()), &st); err != nil {
			return nil, err
		}
		if err := data.Flush(); err != nil {
			return nil, err
		}
	}
	runtime.KeepAlive(f)
	return n, n.Check("file")
}
