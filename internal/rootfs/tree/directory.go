package tree

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/rootfs/erofs"
)

// ReadDirectory reads a directory of the host into a tree, and the contents of its files into b, on all cores. It must not
// change meanwhile; where that shows it is an error. A mount point below it is refused: whether what is mounted there
// belongs to the tree is not for us to guess.
func ReadDirectory(ctx context.Context, path string, b *erofs.Builder) (*erofs.Inode, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	defer unix.Close(fd)
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_BASIC_STATS, &st); err != nil {
		return nil, fmt.Errorf("stat %s: %w", path, err)
	}
	root := inodeOf(&st)
	if root.Xattrs, err = xattrsOf(fmt.Sprintf("/proc/self/fd/%d/.", fd)); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	w := &walker{ctx: ctx, b: b, links: map[fileID]*erofs.Inode{}}
	w.wake = sync.NewCond(&w.mu)
	w.jobs = []job{{path, root}}
	stop := context.AfterFunc(ctx, func() { w.fail(ctx.Err()) })
	defer stop()
	var g sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		g.Go(w.work)
	}
	g.Wait()
	return root, w.err
}

// WriteDirectory makes an EROFS disk of a directory of the host in f, which must be empty, as ReadDirectory reads it. The file
// system's UUID is random.
func WriteDirectory(ctx context.Context, path string, f *os.File) error {
	b := erofs.New(f)
	root, err := ReadDirectory(ctx, path, b)
	if err != nil {
		return err
	}
	var id [16]byte
	rand.Read(id[:])          // never fails
	id[6] = id[6]&0x0f | 0x40 // version 4 of RFC 9562, section 5.4
	id[8] = id[8]&0x3f | 0x80
	_, err = b.Finish(root, id)
	return err
}

// fileID is what two names of one file have in common.
type fileID struct {
	major, minor uint32
	ino          uint64
}

// job is a directory to read.
type job struct {
	path string
	node *erofs.Inode
}

type walker struct {
	ctx context.Context
	b   *erofs.Builder

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
	fd, err := unix.Open(j.path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", j.path, err)
	}
	defer unix.Close(fd)
	names, err := readNames(fd)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", j.path, err)
	}
	var found []job
	for _, name := range names {
		if err := w.ctx.Err(); err != nil {
			return nil, err
		}
		path := filepath.Join(j.path, name)
		n, err := w.readFile(data, fd, name, path)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if j.node.Children[name] = n; n.IsDir() {
			found = append(found, job{path, n})
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
func (w *walker) readFile(data *erofs.DataWriter, dir int, name, path string) (*erofs.Inode, error) {
	var st unix.Statx_t
	if err := unix.Statx(dir, name, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS, &st); err != nil {
		return nil, fmt.Errorf("stat: %w", err)
	}
	if st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0 {
		return nil, errors.New("is a mount point: unmount it, or import a tar made with --one-file-system")
	}
	n := inodeOf(&st)
	if n.Mode&unix.S_IFMT == unix.S_IFCHR && n.Major == 0 && n.Minor == 0 {
		return nil, errors.New("is a character device 0:0, which overlayfs in the guest would take for a whiteout: remove it")
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
			return known, nil
		}
	}
	var err error
	if n.Xattrs, err = xattrsOf(path); err != nil {
		return nil, err
	}
	switch {
	case n.IsSymlink():
		n.Target, err = readlink(dir, name)
	case n.IsRegular() && st.Size > 0:
		n.Data, err = readContent(data, dir, name, &st)
	}
	if err != nil {
		return nil, err
	}
	return n, n.Check(name)
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

// xattrsOf reads extended attributes; the last component of path is not followed.
func xattrsOf(path string) ([]erofs.Xattr, error) {
	var small [256]byte
	list := small[:]
	n, err := unix.Llistxattr(path, list)
	if errors.Is(err, unix.ERANGE) {
		list = make([]byte, 64<<10) // XATTR_LIST_MAX
		n, err = unix.Llistxattr(path, list)
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
		// overlayfs's own notes are no part of the tree.
		if strings.HasPrefix(string(name), "trusted.overlay.") {
			continue
		}
		n, err := unix.Lgetxattr(path, string(name), value)
		if err != nil {
			return nil, fmt.Errorf("read extended attribute %q: %w", name, err)
		}
		attrs = append(attrs, erofs.Xattr{Name: string(name), Value: string(value[:n])})
	}
	return attrs, nil
}

// readContent stores a file's content; of a sparse file only what is not a hole is read.
func readContent(data *erofs.DataWriter, dir int, name string, st *unix.Statx_t) (erofs.Data, error) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return erofs.Data{}, fmt.Errorf("open: %w", err)
	}
	defer unix.Close(fd)
	f := file(fd)
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
