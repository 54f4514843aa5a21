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

	"golang.org/x/sys/unix"
)

// Unpacker writes an archive into a tree. Whatever the archive says, nothing outside of the tree changes, and with a Name nothing
// beside that name.
type Unpacker struct {
	Tree Tree
	// Dir is the path of an existing directory of the tree.
	Dir string
	// Name is the name that the entry Self gets in Dir. Empty: its content goes into Dir itself, and any entries are taken.
	Name string
	// KeepOwner gives files the owners that the archive says. Otherwise new ones are Owner's, and where that is nil, of whoever
	// makes them.
	KeepOwner bool
	Owner     *Owner

	ctx context.Context //nolint:containedctx // one call of Unpack
	// selfIsDir is set once the entry Self was seen to be a directory.
	seen, selfIsDir bool
	// parent is the directory of the entry before, parentName its name.
	parent     *os.File
	parentName string
	// dirs are the directories whose attributes are set when all is written, by name; order has the names. dirsSize is about what
	// they take of memory.
	dirs     map[string]*tar.Header
	order    []string
	dirsSize int
	buf      []byte
}

// maxDirectories bounds what the directories of an archive may take of memory, in bytes: some million of them.
const maxDirectories = 1 << 30

// Owner is a user and a group by number.
type Owner struct{ UID, GID int }

// Unpack reads an archive to its end and writes what it holds. After an error the files that were whole stay.
func (u *Unpacker) Unpack(ctx context.Context, r io.Reader) error {
	u.ctx, u.dirs, u.buf = ctx, map[string]*tar.Header{}, make([]byte, bufferSize)
	defer func() { u.leave() }()
	buffered := bufio.NewReaderSize(r, bufferSize)
	entries := tar.NewReader(buffered)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := entries.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("read the archive: %w", err)
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		if err := u.entry(h, entries); err != nil {
			return err
		}
	}
	if u.Name != "" && !u.seen {
		return errors.New("the archive is empty")
	}
	if err := u.finish(); err != nil {
		return err
	}
	// What follows tar's end is padding.
	_, err := io.Copy(io.Discard, buffered)
	return err
}

// place is where an entry goes, below Dir. It is empty for Dir itself.
func (u *Unpacker) place(h *tar.Header) (string, error) {
	name, err := Local(h.Name)
	if err != nil || u.Name == "" {
		return strings.TrimPrefix(name, Self), err
	}
	if !u.seen {
		u.seen, u.selfIsDir = true, h.Typeflag == tar.TypeDir
		if name != Self {
			return "", fmt.Errorf("the archive begins with %q instead of what was copied", h.Name)
		}
	} else if name == Self || !u.selfIsDir {
		return "", fmt.Errorf("the archive names %q beside what was copied", h.Name)
	}
	return path.Join(u.Name, name), nil
}

func (u *Unpacker) entry(h *tar.Header, r io.Reader) error {
	name, err := u.place(h)
	if err != nil {
		return err
	}
	if name == "" {
		if h.Typeflag == tar.TypeDir {
			return nil // Dir stays as it is
		}
		return fmt.Errorf("the archive names %q, which is its destination, as something else than a directory", h.Name)
	}
	if len(name) > unix.PathMax {
		return fmt.Errorf("write %.64q...: its path has more than %d bytes", name, unix.PathMax)
	}
	dir, err := u.enter(path.Dir(name))
	if err != nil {
		return err
	}
	base := path.Base(name)
	exists, err := u.makeRoom(dir, name, base, h.Typeflag == tar.TypeDir)
	if err != nil {
		return err
	}
	n := node{dir, name, base}
	switch {
	case h.Typeflag == tar.TypeDir:
		return u.directory(n, h, exists)
	case isRegular(h):
		return u.file(n, h, r)
	case h.Typeflag == tar.TypeLink:
		return u.link(n, h)
	}
	return u.special(n, h)
}

// makeRoom removes what an entry takes the place of, and says whether the entry is a directory that is there.
func (u *Unpacker) makeRoom(dir *os.File, name, base string, isDir bool) (exists bool, err error) {
	var st unix.Stat_t
	err = unix.Fstatat(int(dir.Fd()), base, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("write %q: %w", name, err)
	}
	was := st.Mode&unix.S_IFMT == unix.S_IFDIR
	switch {
	case was && isDir:
		return true, nil
	case was:
		return false, fmt.Errorf("cannot overwrite directory %q with non-directory", name)
	case isDir:
		return false, fmt.Errorf("cannot overwrite non-directory %q with directory", name)
	}
	if err := unix.Unlinkat(int(dir.Fd()), base, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return false, fmt.Errorf("replace %q: %w", name, err)
	}
	return false, nil
}

// enter returns the directory with this name below Dir, and makes those that are missing.
func (u *Unpacker) enter(name string) (*os.File, error) {
	if u.parent != nil && u.parentName == name {
		return u.parent, nil
	}
	const flags = unix.O_PATH | unix.O_DIRECTORY
	d, err := u.Tree.Open(u.path(name), flags)
	if errors.Is(err, unix.ENOENT) && name != "." {
		var above *os.File
		if above, err = u.enter(path.Dir(name)); err != nil {
			return nil, err
		}
		// As Docker makes directories that an archive does not name. Somebody else may have been faster.
		err = unix.Mkdirat(int(above.Fd()), path.Base(name), 0o755)
		made := err == nil
		if made || errors.Is(err, unix.EEXIST) {
			d, err = u.Tree.Open(u.path(name), flags)
		}
		if made && err == nil {
			err = u.chown(int(d.Fd()), name, nil)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("enter the directory %q: %w", name, bare(err))
	}
	u.leave()
	u.parent, u.parentName = d, name
	return d, nil
}

// path is that of a name below Dir in the tree.
func (u *Unpacker) path(name string) string { return path.Join(u.Dir, name) }

func (u *Unpacker) leave() {
	if u.parent != nil {
		u.parent.Close()
		u.parent = nil
	}
}

// directory makes a directory or enters the one that is there. Its attributes come last: it is still to be written into.
func (u *Unpacker) directory(n node, h *tar.Header, exists bool) error {
	if !exists {
		if err := unix.Mkdirat(n.fd(), n.base, 0o700); err != nil {
			return fmt.Errorf("make the directory %q: %w", n.name, err)
		}
	}
	// A directory that is there keeps its owner, unless owners are copied.
	if !exists || u.KeepOwner {
		d, err := n.openDirectory()
		if err != nil {
			return err
		}
		defer d.Close()
		if err := u.chown(int(d.Fd()), n.name, h); err != nil {
			return err
		}
	}
	return u.remember(n.name, h)
}

// remember keeps what a directory gets when all is written, and nothing of the text that the archive's names are parts of.
func (u *Unpacker) remember(name string, h *tar.Header) error {
	const fixed = 512 // a header and its places
	name = strings.Clone(name)
	kept := &tar.Header{Mode: h.Mode, ModTime: h.ModTime}
	u.dirsSize += fixed + len(name)
	for key, value := range h.PAXRecords {
		if attr, ok := strings.CutPrefix(key, xattrPrefix); !ok || !Carried(attr) {
			continue
		}
		if kept.PAXRecords == nil {
			kept.PAXRecords = map[string]string{}
		}
		kept.PAXRecords[strings.Clone(key)] = strings.Clone(value)
		u.dirsSize += len(key) + len(value)
	}
	if u.dirsSize > maxDirectories {
		return fmt.Errorf("make the directory %.64q: the archive has more directories than can be kept in mind", name)
	}
	if u.dirs[name] == nil {
		u.order = append(u.order, name)
	}
	u.dirs[name] = kept
	return nil
}

// finish gives the directories their attributes, the innermost first.
func (u *Unpacker) finish() error {
	u.leave()
	for _, name := range slices.Backward(u.order) {
		if err := u.finishDirectory(name, u.dirs[name]); err != nil {
			return err
		}
	}
	return nil
}

func (u *Unpacker) finishDirectory(name string, h *tar.Header) error {
	parent, err := u.enter(path.Dir(name))
	if err != nil {
		return err
	}
	d, err := node{parent, name, path.Base(name)}.openDirectory()
	if err != nil {
		return err
	}
	defer d.Close()
	return u.attributes(d, name, h)
}

// attributes sets all but the owner of what is open as f.
func (u *Unpacker) attributes(f *os.File, name string, h *tar.Header) error {
	fd := int(f.Fd())
	for key, value := range h.PAXRecords {
		attr, ok := strings.CutPrefix(key, xattrPrefix)
		if !ok || !Carried(attr) {
			continue
		}
		err := unix.Fsetxattr(fd, attr, []byte(value), 0)
		// Docker's rule: a file system or a user that cannot have them goes without.
		if err != nil && !errors.Is(err, unix.ENOTSUP) && !errors.Is(err, unix.EPERM) {
			return fmt.Errorf("set the extended attribute %q of %q: %w", attr, name, err)
		}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("look at %q: %w", name, err)
	}
	if mode := uint32(h.Mode & 0o7777); st.Mode&0o7777 != mode {
		if err := unix.Fchmod(fd, mode); err != nil {
			return fmt.Errorf("set the mode of %q: %w", name, err)
		}
	}
	if err := unix.UtimesNanoAt(fd, "", times(h), unix.AT_EMPTY_PATH); err != nil {
		return fmt.Errorf("set the time of %q: %w", name, err)
	}
	return nil
}

// times are the access and the modification time of an entry's file.
func times(h *tar.Header) []unix.Timespec {
	t := unix.Timespec{Sec: h.ModTime.Unix(), Nsec: int64(h.ModTime.Nanosecond())}
	return []unix.Timespec{t, t}
}
