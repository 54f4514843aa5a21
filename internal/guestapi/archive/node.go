package archive

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path"

	"golang.org/x/sys/unix"
)

// node is a name in an open directory; name is its whole path, for errors.
type node struct {
	dir        *os.File
	name, base string
}

// fd is the directory's.
func (n node) fd() int { return int(n.dir.Fd()) }

// openDirectory opens the directory that the node is.
func (n node) openDirectory() (*os.File, error) {
	fd, err := unix.Openat(n.fd(), n.base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the directory %q: %w", n.name, err)
	}
	return os.NewFile(uintptr(fd), n.name), nil
}

// owner is who gets the file of this entry; nil leaves it to whoever makes it.
func (u *Unpacker) owner(h *tar.Header) *Owner {
	if u.KeepOwner && h != nil {
		return &Owner{h.Uid, h.Gid}
	}
	return u.Owner
}

// chown gives what is open as fd, O_PATH is enough, to the owner that it gets.
func (u *Unpacker) chown(fd int, name string, h *tar.Header) error {
	o := u.owner(h)
	if o == nil {
		return nil
	}
	// The highest number means "leave it" (chown(2)).
	if o.UID < 0 || o.UID >= math.MaxUint32 || o.GID < 0 || o.GID >= math.MaxUint32 {
		return fmt.Errorf("give %q to user %d and group %d: no such numbers", name, o.UID, o.GID)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("look at %q: %w", name, err)
	}
	if st.Uid == uint32(o.UID) && st.Gid == uint32(o.GID) {
		return nil // a change is a write to the journal, and small files are many
	}
	if err := unix.Fchownat(fd, "", o.UID, o.GID, unix.AT_EMPTY_PATH); err != nil {
		return fmt.Errorf("give %q to user %d and group %d: %w", name, o.UID, o.GID, err)
	}
	return nil
}

// file writes a regular file. One that does not become whole is taken away again.
func (u *Unpacker) file(n node, h *tar.Header, r io.Reader) (err error) {
	const flags = unix.O_CREAT | unix.O_EXCL | unix.O_WRONLY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := unix.Openat(n.fd(), n.base, flags, uint32(h.Mode&0o777))
	if err != nil {
		return fmt.Errorf("make %q: %w", n.name, err)
	}
	f := os.NewFile(uintptr(fd), n.name)
	defer func() {
		// Some file systems say at the close only that there is no room.
		if cerr := f.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("write %q: %w", n.name, bare(cerr))
		}
		if err != nil {
			_ = unix.Unlinkat(n.fd(), n.base, 0) // the error above is what counts
		}
	}()
	if err := u.content(f, n.name, h, r); err != nil {
		return err
	}
	if err := u.chown(fd, n.name, h); err != nil {
		return err
	}
	return u.attributes(f, n.name, h)
}

func (u *Unpacker) content(f *os.File, name string, h *tar.Header, r io.Reader) error {
	size, err := Size(h)
	if err != nil {
		return err
	}
	all, err := readMap(h, r)
	if err != nil {
		return err
	}
	if _, sparse := h.PAXRecords[sizeRecord]; !sparse {
		all = []segment{{0, size}}
	} else if err := f.Truncate(size); err != nil {
		return fmt.Errorf("write %q: %w", name, bare(err))
	}
	for _, s := range all {
		for at, end := s.offset, s.offset+s.length; at < end; {
			if err := u.ctx.Err(); err != nil {
				return err
			}
			n, rerr := io.ReadFull(r, u.buf[:min(int64(len(u.buf)), end-at)])
			if rerr != nil {
				return fmt.Errorf("read the archive's %q: %w", name, rerr)
			}
			if _, err := f.WriteAt(u.buf[:n], at); err != nil {
				return fmt.Errorf("write %q: %w", name, bare(err))
			}
			at += int64(n)
		}
	}
	return nil
}

// link makes a second name of a file that the archive or the destination has. Attributes are the first name's business.
func (u *Unpacker) link(n node, h *tar.Header) error {
	target, err := Local(h.Linkname)
	if err != nil {
		return err
	}
	if u.Name != "" {
		target = path.Join(u.Name, target)
	}
	dir, err := u.Tree.Open(u.path(path.Dir(target)), unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return fmt.Errorf("link %q to %q: %w", n.name, target, bare(err))
	}
	defer dir.Close()
	if err := unix.Linkat(int(dir.Fd()), path.Base(target), n.fd(), n.base, 0); err != nil {
		return fmt.Errorf("link %q to %q: %w", n.name, target, err)
	}
	return nil
}

// special makes what has no content: links, FIFOs and devices.
func (u *Unpacker) special(n node, h *tar.Header) error {
	var err error
	var kind uint32
	switch h.Typeflag {
	case tar.TypeSymlink:
		kind = unix.S_IFLNK
		err = unix.Symlinkat(h.Linkname, n.fd(), n.base)
	case tar.TypeFifo:
		kind = unix.S_IFIFO
		err = unix.Mknodat(n.fd(), n.base, kind|0o600, 0)
	case tar.TypeChar, tar.TypeBlock:
		if kind = unix.S_IFCHR; h.Typeflag == tar.TypeBlock {
			kind = unix.S_IFBLK
		}
		if h.Devmajor < 0 || h.Devmajor > math.MaxUint32 || h.Devminor < 0 || h.Devminor > math.MaxUint32 {
			err = errors.New("no such device numbers")
		} else {
			err = unix.Mknodat(n.fd(), n.base, kind|0o600, int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))))
		}
	default:
		err = fmt.Errorf("unhandled tar header type %d", h.Typeflag)
	}
	if err == nil {
		err = u.finishSpecial(n, h, kind)
	}
	if err != nil {
		return fmt.Errorf("make %q: %w", n.name, err)
	}
	return nil
}

// finishSpecial sets the attributes of a node, by a descriptor of the one that was made: whoever may write into its directory may
// have put another in its place.
func (u *Unpacker) finishSpecial(n node, h *tar.Header, kind uint32) error {
	fd, err := unix.Openat(n.fd(), n.base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != kind || st.Nlink != 1 {
		return errors.New("it was replaced while it was copied")
	}
	if err := u.chown(fd, n.name, h); err != nil {
		return err
	}
	// By the descriptor's name: O_PATH is not enough for fchmod(2).
	self := fmt.Sprintf("/proc/self/fd/%d", fd)
	if kind != unix.S_IFLNK {
		if err := unix.Chmod(self, uint32(h.Mode&0o7777)); err != nil {
			return err
		}
	}
	return unix.UtimesNanoAt(fd, "", times(h), unix.AT_EMPTY_PATH)
}
