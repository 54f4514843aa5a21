package erofs

import (
	"fmt"
	"slices"
	"strings"
)

// Inode is one file of the tree. Two names of one Inode are hard links. Fields of another type than Mode's are ignored.
type Inode struct {
	// Mode is st_mode: the type and the permission bits with setuid, setgid and sticky.
	Mode     uint32
	UID, GID uint32
	// Mtime is in seconds since the epoch, MtimeNsec the nanoseconds beside it.
	Mtime     int64
	MtimeNsec uint32
	// Major and Minor are of a character or block device.
	Major, Minor uint32
	// Xattrs have full names ("user.a"), each at most once.
	Xattrs []Xattr
	// Target is a symbolic link's text.
	Target string
	// Data is a regular file's content.
	Data Data
	// Children are a directory's entries, without "." and "..".
	Children map[string]*Inode

	// What Finish works out; nid is 0 until the inode has its place.
	nid    uint64
	nlink  uint32
	number uint32
	layout uint16
	xsize  uint32 // bytes of inline xattrs
	block  uint32 // first of the blocks that a directory or a symbolic link has outside of the inode
	dir    []dirBlock
	parent *Inode
}

// Xattr is an extended attribute.
type Xattr struct {
	Name  string
	Value string
}

// IsDir says whether the inode is a directory.
func (n *Inode) IsDir() bool { return n.Mode&modeType == ModeDir }

// IsRegular says whether the inode is a regular file.
func (n *Inode) IsRegular() bool { return n.Mode&modeType == ModeReg }

// IsSymlink says whether the inode is a symbolic link.
func (n *Inode) IsSymlink() bool { return n.Mode&modeType == ModeLink }

// XattrStorable says whether the format has a place for an attribute of this name.
func XattrStorable(name string) bool {
	_, _, ok := splitXattr(name)
	return ok
}

func splitXattr(name string) (index byte, rest string, ok bool) {
	for _, p := range xattrPrefixes {
		if rest, found := strings.CutPrefix(name, p.name); found && (rest == "") == p.whole {
			return p.index, rest, len(rest) <= maxName
		}
	}
	return 0, "", false
}

// Check says whether the format can hold the inode under this name, and if not, why.
func (n *Inode) Check(name string) error {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("%q is no name of a file", name)
	}
	if len(name) > maxName {
		return fmt.Errorf("name of %d bytes, at most %d can be stored", len(name), maxName)
	}
	if direntType(n.Mode) == 0 || n.Mode>>16 != 0 {
		return fmt.Errorf("mode %#o is of no known type", n.Mode)
	}
	if n.Major >= 1<<12 || n.Minor >= 1<<20 {
		return fmt.Errorf("device number %d:%d is beyond Linux's range", n.Major, n.Minor)
	}
	if n.MtimeNsec >= 1e9 {
		return fmt.Errorf("%d nanoseconds in a modification time", n.MtimeNsec)
	}
	// PATH_MAX with its NUL; the kernel's symbolic links hold at most that.
	if n.IsSymlink() && (n.Target == "" || len(n.Target) >= BlockSize || strings.Contains(n.Target, "\x00")) {
		return fmt.Errorf("symbolic link's target of %d bytes is not between 1 and %d", len(n.Target), BlockSize-1)
	}
	_, err := n.xattrSize()
	return err
}

// xattrSize returns the bytes that the inline attributes take.
func (n *Inode) xattrSize() (uint32, error) {
	if len(n.Xattrs) == 0 {
		return 0, nil
	}
	size := xattrHeaderSize
	for _, x := range n.Xattrs {
		_, rest, ok := splitXattr(x.Name)
		if !ok {
			return 0, fmt.Errorf("extended attribute %q can't be stored", x.Name)
		}
		if len(x.Value) > 1<<16-1 {
			return 0, fmt.Errorf("extended attribute %q of %d bytes, at most 65535 can be stored", x.Name, len(x.Value))
		}
		size += align(xattrEntrySize+len(rest)+len(x.Value), 4)
	}
	// i_xattr_icount is 16 bits of 4-byte units.
	if size-xattrHeaderSize > 4*(1<<16-2) {
		return 0, fmt.Errorf("extended attributes of %d bytes together, at most 256 KiB can be stored", size)
	}
	return uint32(size), nil
}

func (n *Inode) appendXattrs(b []byte) []byte {
	if len(n.Xattrs) == 0 {
		return b
	}
	slices.SortFunc(n.Xattrs, func(a, b Xattr) int { return strings.Compare(a.Name, b.Name) })
	b = append(b, make([]byte, xattrHeaderSize)...)
	for _, x := range n.Xattrs {
		index, rest, _ := splitXattr(x.Name)
		start := len(b)
		b = append(b, byte(len(rest)), index, byte(len(x.Value)), byte(len(x.Value)>>8))
		b = append(b, rest...)
		b = append(b, x.Value...)
		for (len(b)-start)%4 != 0 {
			b = append(b, 0)
		}
	}
	return b
}

func align[T int | int64 | uint64](n, to T) T { return (n + to - 1) / to * to }
