package tree

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/rootfs/erofs"
)

// Notes that overlayfs keeps as extended attributes of its upper layer's files
// (https://docs.kernel.org/filesystems/overlayfs.html); without privileges it keeps them below another prefix.
const (
	overlayNotes     = "trusted.overlay."
	overlayUserNotes = "user.overlay."

	noteOpaque   = "opaque"
	noteRedirect = "redirect"
	noteMetacopy = "metacopy"
	noteWhiteout = "whiteout"
)

// Upper describes an overlay, one layer of which is read as it lies on the disk. A mounted overlay's upper layer may be read
// at any time: a file appears there by one rename, and its content is the same pages as in the overlay. What the layer holds
// only by reference, a directory that was renamed or a file of which but the attributes were changed, is read from the overlay.
//
// In the tree a whiteout is a character device 0:0, and a directory that hides what lies below has the attribute
// trusted.overlay.opaque: the tree can be a layer of another overlay.
type Upper struct {
	// Merged is the overlay's own root directory.
	Merged *os.File
	// User says that the overlay was mounted with the option userxattr.
	User bool
}

func (u *Upper) notes() string {
	if u.User {
		return overlayUserNotes
	}
	return overlayNotes
}

// interpret sorts a file's extended attributes into its own and the overlay's notes.
func (u *Upper) interpret(j *job, all []erofs.Xattr) error {
	notes := map[string]string{}
	for _, x := range all {
		if name, ok := strings.CutPrefix(x.Name, u.notes()); ok {
			notes[name] = x.Value
		} else if !strings.HasPrefix(x.Name, overlayNotes) {
			j.node.Xattrs = append(j.node.Xattrs, x)
		}
	}
	_, redirected := notes[noteRedirect]
	_, metacopy := notes[noteMetacopy]
	_, whiteout := notes[noteWhiteout]
	switch n := j.node; {
	case n.IsDir() && redirected:
		j.src = u.merged()
		setOpaque(n)
	case n.IsDir() && notes[noteOpaque] == "y":
		setOpaque(n)
	case n.IsRegular() && whiteout:
		*n = erofs.Inode{Mode: unix.S_IFCHR, Mtime: n.Mtime, MtimeNsec: n.MtimeNsec}
	case n.IsRegular() && metacopy:
		j.src = u.merged()
	}
	return nil
}

// merged is the overlay as a source; it is read like any directory.
func (u *Upper) merged() *source {
	return &source{root: int(u.Merged.Fd()), name: u.Merged.Name()}
}

// readContent stores the content of a file that the source has at a path.
func (s *source) readContent(data *erofs.DataWriter, path string) (erofs.Data, error) {
	fd, err := s.open(path, unix.O_NONBLOCK)
	if err != nil {
		return erofs.Data{}, fmt.Errorf("open %s: %w", path, err)
	}
	defer unix.Close(fd)
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_BASIC_STATS, &st); err != nil {
		return erofs.Data{}, fmt.Errorf("stat %s: %w", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return erofs.Data{}, errors.New("changed while it was read")
	}
	if st.Size == 0 {
		return erofs.Data{}, nil
	}
	return storeContent(data, file(fd), &st)
}

// Stack puts one layer of an overlay, read with Upper, on top of another, and returns the layer that stands for both. The two
// are not to be used any more.
func Stack(lower, upper *erofs.Inode) *erofs.Inode {
	for name, l := range lower.Children {
		u := upper.Children[name]
		switch {
		case u == nil:
			upper.Children[name] = l
		case !u.IsDir() || isOpaque(u):
		case l.IsDir():
			Stack(l, u)
		default:
			setOpaque(u) // a file, or a whiteout, which hid what lies below both
		}
	}
	if isOpaque(lower) {
		setOpaque(upper)
	}
	return upper
}

// HasWhiteouts says whether there is one in a layer.
func HasWhiteouts(n *erofs.Inode) bool {
	for _, c := range n.Children {
		if isWhiteout(c) || HasWhiteouts(c) {
			return true
		}
	}
	return false
}

// DropWhiteouts takes those out of a layer that hide nothing; below says whether there is something at a path in the layers below.
func DropWhiteouts(n *erofs.Inode, below func(path string) (bool, error)) error {
	return dropWhiteouts(n, "", below)
}

func dropWhiteouts(n *erofs.Inode, at string, below func(path string) (bool, error)) error {
	for name, c := range n.Children {
		path := filepath.Join(at, name)
		if !isWhiteout(c) {
			if err := dropWhiteouts(c, path, below); err != nil {
				return err
			}
			continue
		}
		hides, err := below(path)
		if err != nil {
			return err
		}
		if !hides {
			delete(n.Children, name)
		}
	}
	return nil
}

func isWhiteout(n *erofs.Inode) bool {
	return n.Mode&unix.S_IFMT == unix.S_IFCHR && n.Major == 0 && n.Minor == 0
}

func isOpaque(n *erofs.Inode) bool {
	return slices.Contains(n.Xattrs, erofs.Xattr{Name: overlayNotes + noteOpaque, Value: "y"})
}

func setOpaque(n *erofs.Inode) {
	if !isOpaque(n) {
		n.Xattrs = append(n.Xattrs, erofs.Xattr{Name: overlayNotes + noteOpaque, Value: "y"})
	}
}
