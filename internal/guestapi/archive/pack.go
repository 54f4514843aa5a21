package archive

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Packed is what Pack has found.
type Packed struct {
	// Content is the size of all files, in bytes.
	Content int64
	// Sockets were left out: they are nothing without the process that listens. Socket is the path of the first, below what was
	// copied.
	Sockets uint64
	Socket  string
}

// Packer copies a tree into an archive.
type Packer struct {
	// Hollow, where set, says of a directory whether only it is copied and nothing below it. Mounts of file systems that the
	// kernel makes up are always copied in this way.
	Hollow func(*unix.Stat_t) bool

	ctx   context.Context //nolint:containedctx // one call of Pack
	tar   *tar.Writer
	found Packed
	links map[inode]string
	buf   []byte
}

// inode is what tells two names of one file from two files.
type inode struct{ dev, ino uint64 }

const (
	// bufferSize is what goes through at once, in bytes.
	bufferSize = 64 << 10
	// maxXattrs bounds the extended attributes of one file, in bytes: archive/tar reads no larger set of records.
	maxXattrs = 512 << 10
)

// Pack writes what source, an O_PATH descriptor, stands for to w.
func (p *Packer) Pack(ctx context.Context, w io.Writer, source *os.File) (Packed, error) {
	buffered := bufio.NewWriterSize(w, bufferSize)
	p.ctx, p.tar, p.links, p.buf = ctx, tar.NewWriter(buffered), map[inode]string{}, make([]byte, bufferSize)
	var st unix.Stat_t
	if err := unix.Fstat(int(source.Fd()), &st); err != nil {
		return Packed{}, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		if kind, err := KernelFilesystem(source); err != nil {
			return Packed{}, err
		} else if kind != "" {
			return Packed{}, fmt.Errorf("files of the kernel's own file system %s cannot be copied; a command that reads them can", kind)
		}
	}
	err := p.add(Self, source, &st)
	if err == nil {
		err = p.tar.Close()
	}
	if err == nil {
		err = buffered.Flush()
	}
	return p.found, err
}

// add writes the entry of f, and those below it.
func (p *Packer) add(name string, f *os.File, st *unix.Stat_t) error {
	if err := p.ctx.Err(); err != nil {
		return err
	}
	h := &tar.Header{
		Name: name, Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid), Format: tar.FormatPAX,
		ModTime: time.Unix(st.Mtim.Sec, st.Mtim.Nsec),
	}
	kind := st.Mode & unix.S_IFMT
	if kind == unix.S_IFSOCK {
		if p.found.Sockets++; p.found.Socket == "" {
			p.found.Socket = name
		}
		return nil
	}
	if id := (inode{st.Dev, st.Ino}); kind != unix.S_IFDIR && st.Nlink > 1 {
		if first, ok := p.links[id]; ok {
			h.Typeflag, h.Linkname = tar.TypeLink, first
			return p.header(h)
		}
		p.links[id] = name
	}
	switch kind {
	case unix.S_IFDIR:
		return p.directory(h, f, st)
	case unix.S_IFREG:
		return p.file(h, f, st)
	case unix.S_IFLNK:
		var err error
		h.Typeflag = tar.TypeSymlink
		if h.Linkname, err = readlinkOf(f); err != nil {
			return fmt.Errorf("read the link %q: %w", name, err)
		}
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	default:
		h.Typeflag = tar.TypeChar
		if kind == unix.S_IFBLK {
			h.Typeflag = tar.TypeBlock
		}
		h.Devmajor, h.Devminor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	}
	return p.header(h)
}

func (p *Packer) header(h *tar.Header) error {
	if err := p.tar.WriteHeader(h); err != nil {
		return fmt.Errorf("copy %q: %w", h.Name, err)
	}
	return nil
}

// directory writes a directory and what is in it, by names in order.
func (p *Packer) directory(h *tar.Header, f *os.File, st *unix.Stat_t) error {
	name := h.Name
	h.Typeflag, h.Name = tar.TypeDir, name+"/"
	d, err := reopen(f, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return fmt.Errorf("read the directory %q: %w", name, bare(err))
	}
	defer d.Close()
	if err := xattrsOf(d, h); err != nil {
		return err
	}
	if err := p.header(h); err != nil || name != Self && p.Hollow != nil && p.Hollow(st) {
		return err
	}
	names, err := d.Readdirnames(-1)
	if err != nil {
		return fmt.Errorf("read the directory %q: %w", name, bare(err))
	}
	slices.Sort(names)
	for _, child := range names {
		// By the descriptor of its directory; the joined name is for the archive.
		if err := p.child(d, st.Dev, path.Join(name, child), child); err != nil { //nolint:gosec // G305: nothing is extracted here
			return err
		}
	}
	return nil
}

// child writes the entry of a name in the directory d. A file that has gone meanwhile is no error.
func (p *Packer) child(d *os.File, dev uint64, name, child string) error {
	if len(name) > unix.PathMax {
		return fmt.Errorf("copy %.64q...: its path has more than %d bytes", name, unix.PathMax)
	}
	fd, err := unix.Openat(int(d.Fd()), child, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("copy %q: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("copy %q: %w", name, err)
	}
	if st.Dev != dev && st.Mode&unix.S_IFMT == unix.S_IFDIR {
		if kind, err := KernelFilesystem(f); err != nil {
			return fmt.Errorf("copy %q: %w", name, err)
		} else if kind != "" {
			// The mount point, as it is without its mount.
			return p.header(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755, Format: tar.FormatPAX,
				ModTime: time.Unix(st.Mtim.Sec, st.Mtim.Nsec)})
		}
	}
	return p.add(name, f, &st)
}

// file writes a regular file: what it has of the size that it has now.
func (p *Packer) file(h *tar.Header, f *os.File, st *unix.Stat_t) error {
	r, err := reopen(f, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY)
	if err != nil {
		return fmt.Errorf("open %q: %w", h.Name, bare(err))
	}
	defer r.Close()
	if err := xattrsOf(r, h); err != nil {
		return err
	}
	h.Typeflag, h.Size = tar.TypeReg, st.Size
	p.found.Content += st.Size
	data := []segment{{0, st.Size}}
	var holes []byte
	const block = 512 // of st_blocks (inode(7))
	if st.Blocks*block < st.Size {
		if all, err := segments(r, st.Size); err == nil {
			data, holes = all, mapHeader(h, all)
		} else if !errors.Is(err, unix.EINVAL) { // a file system that knows no holes
			return fmt.Errorf("find the holes of %q: %w", h.Name, err)
		}
	}
	if err := p.header(h); err != nil {
		return err
	}
	if _, err := p.tar.Write(holes); err != nil {
		return err
	}
	for _, s := range data {
		if err := p.content(h.Name, r, s); err != nil {
			return err
		}
	}
	return nil
}

func (p *Packer) content(name string, r *os.File, s segment) error {
	for at, end := s.offset, s.offset+s.length; at < end; {
		if err := p.ctx.Err(); err != nil {
			return err
		}
		n, err := r.ReadAt(p.buf[:min(int64(len(p.buf)), end-at)], at)
		if n == 0 && errors.Is(err, io.EOF) {
			return fmt.Errorf("%q has become shorter while it was copied", name)
		}
		if n == 0 && err != nil {
			return fmt.Errorf("read %q: %w", name, bare(err))
		}
		if _, err := p.tar.Write(p.buf[:n]); err != nil {
			return err
		}
		at += int64(n)
	}
	return nil
}

// xattrsOf puts f's extended attributes into h.
func xattrsOf(f *os.File, h *tar.Header) error {
	fd := int(f.Fd())
	size, err := unix.Flistxattr(fd, nil)
	if errors.Is(err, unix.ENOTSUP) || err == nil && size == 0 {
		return nil
	}
	const most = 64 << 10 // XATTR_LIST_MAX and XATTR_SIZE_MAX of limits.h(0p)
	list := make([]byte, most)
	if err == nil {
		size, err = unix.Flistxattr(fd, list)
	}
	if err != nil {
		return fmt.Errorf("list the extended attributes of %q: %w", h.Name, err)
	}
	total := 0
	for name := range strings.SplitSeq(string(list[:size]), "\x00") {
		if name == "" || !Carried(name) {
			continue
		}
		value := make([]byte, most)
		n, err := unix.Fgetxattr(fd, name, value)
		if errors.Is(err, unix.ENODATA) {
			continue // gone meanwhile
		}
		if err != nil {
			return fmt.Errorf("read the extended attribute %q of %q: %w", name, h.Name, err)
		}
		if total += len(name) + n; total > maxXattrs {
			return fmt.Errorf("copy %q: its extended attributes have more than %d bytes", h.Name, maxXattrs)
		}
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords[xattrPrefix+name] = string(value[:n])
	}
	return nil
}

// bare is an error without the descriptor's path in /proc.
func bare(err error) error {
	if p := (*os.PathError)(nil); errors.As(err, &p) {
		return p.Err
	}
	return err
}
