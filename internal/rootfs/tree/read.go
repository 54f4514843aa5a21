// Package tree turns layers, which are tar streams, into the tree of inodes of an image.
//
// ReadLayer reads one layer and may run for several layers at the same time; New and then Apply, layer by layer from the
// lowest up and by one goroutine, put them on top of each other. Nothing is ever created on the host, so that no entry can
// reach outside of the image; one that tries to is refused.
package tree

import (
	"archive/tar"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/runcvm/runcvm/internal/rootfs/erofs"
)

// Limits bound what an image may take; a zero field stands for the field of DefaultLimits.
type Limits struct {
	// Bytes is of all layers together, uncompressed.
	Bytes int64
	// Size is the sum of the sizes of all files; holes of sparse files count.
	Size int64
	// Entries is how many entries all layers have together.
	Entries int64
	// PathLength is the longest path of an entry, in bytes.
	PathLength int
}

// DefaultLimits are far above the images in use, and such that an image at the limit still fits in memory and time.
var DefaultLimits = Limits{Bytes: 128 << 30, Size: 2 << 40, Entries: 4 << 20, PathLength: 4096}

// WithDefaults returns the limits with those of DefaultLimits in place of zeros.
func (l Limits) WithDefaults() Limits {
	pick := func(v *int64, d int64) {
		if *v == 0 {
			*v = d
		}
	}
	pick(&l.Bytes, DefaultLimits.Bytes)
	pick(&l.Size, DefaultLimits.Size)
	pick(&l.Entries, DefaultLimits.Entries)
	if l.PathLength == 0 {
		l.PathLength = DefaultLimits.PathLength
	}
	return l
}

// Budget is what is left of Limits for the layers of one image. It may be shared by goroutines.
type Budget struct {
	limits               Limits
	bytes, size, entries atomic.Int64
}

// NewBudget returns the whole of limits.
func NewBudget(limits Limits) *Budget { return &Budget{limits: limits.WithDefaults()} }

// ErrLimit says that an image is larger than Limits allow.
var ErrLimit = errors.New("the image is beyond the limit")

func spend(left *atomic.Int64, n, limit int64, what string) error {
	if n < 0 || n > limit || left.Add(n) > limit {
		return fmt.Errorf("%w of %d %s", ErrLimit, limit, what)
	}
	return nil
}

// Names of whiteouts: the image specification, layer.md, "Whiteouts".
const (
	whiteoutPrefix = ".wh."
	opaqueName     = ".wh..wh..opq"
	// metaPrefix marks what AUFS kept at the root of its own; no layer means anything by it.
	metaPrefix = ".wh..wh."
)

// maxDepth is how deep a directory may lie: a path of PATH_MAX bytes reaches no further.
const maxDepth = 2048

// entry is one entry of a layer, in one of these forms: node; link; whiteout; opaque.
type entry struct {
	path     []string // components; none for the root
	node     *erofs.Inode
	link     []string // a hard link's target
	isLink   bool
	whiteout bool // path is hidden in the layers below
	opaque   bool // all that the directory at path has in the layers below is hidden
}

// Layer is a layer that was read.
type Layer struct {
	entries []entry
}

// ReadLayer reads an uncompressed layer to its end. Contents of files go to w at once and are flushed; without w they are
// read, but kept nowhere, and the layer is good for a check only.
func ReadLayer(ctx context.Context, r io.Reader, w *erofs.DataWriter, budget *Budget) (*Layer, error) {
	return readLayer(ctx, r, w, budget, w == nil)
}

// ReadNewLayer is ReadLayer for a layer that was never checked: what has no place in a disk is told in the log.
func ReadNewLayer(ctx context.Context, r io.Reader, w *erofs.DataWriter, budget *Budget) (*Layer, error) {
	return readLayer(ctx, r, w, budget, true)
}

func readLayer(ctx context.Context, r io.Reader, w *erofs.DataWriter, budget *Budget, isNew bool) (*Layer, error) {
	counted := &meter{ctx: ctx, r: r, budget: budget}
	l := layerReader{ctx: ctx, tr: tar.NewReader(counted), w: w, budget: budget, layer: &Layer{}, isNew: isNew}
	for {
		more, err := l.next()
		if err != nil {
			if counted.err != nil && !errors.Is(err, counted.err) {
				err = counted.err // archive/tar hides its reader's error in some places
			}
			if errors.Is(err, io.ErrUnexpectedEOF) {
				err = fmt.Errorf("the layer is cut off: %w", err)
			}
			return nil, err
		}
		if !more {
			break
		}
	}
	// What follows the end of the archive counts for the digest.
	if _, err := io.Copy(io.Discard, counted); err != nil {
		return nil, err
	}
	if w == nil {
		return l.layer, nil
	}
	return l.layer, w.Flush()
}

// meter counts bytes against the budget, and ends when the context does.
type meter struct {
	ctx    context.Context
	r      io.Reader
	budget *Budget
	err    error // other than io.EOF
}

func (m *meter) Read(p []byte) (int, error) {
	if err := m.ctx.Err(); err != nil {
		m.err = err
		return 0, err
	}
	n, err := m.r.Read(p)
	if over := spend(&m.budget.bytes, int64(n), m.budget.limits.Bytes, "bytes in its layers"); over != nil {
		err = over
	}
	if err != nil && !errors.Is(err, io.EOF) {
		m.err = err
	}
	return n, err
}

type layerReader struct {
	ctx    context.Context
	tr     *tar.Reader
	w      *erofs.DataWriter
	budget *Budget
	layer  *Layer
	isNew  bool
	warned map[string]bool
}

// warn logs something that has no place in the disk, once for a kind, a few kinds for a layer, and only when it is new.
func (l *layerReader) warn(kind, path string) {
	if l.warned[kind] || !l.isNew {
		return
	}
	const most = 20
	if l.warned == nil {
		l.warned = map[string]bool{}
	}
	if len(l.warned) == most {
		return
	}
	l.warned[kind] = true
	slog.WarnContext(l.ctx, "Left out of the image disk", "what", kind, "first", path)
}

// next reads an entry; it returns false after the last.
func (l *layerReader) next() (bool, error) {
	h, err := l.tr.Next()
	if errors.Is(err, io.EOF) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read the layer: %w", err)
	}
	if err := spend(&l.budget.entries, 1, l.budget.limits.Entries, "entries"); err != nil {
		return false, err
	}
	if h.Typeflag == tar.TypeXGlobalHeader {
		return true, nil // defaults for what follows, such as git's commit id; none that concerns a file's content
	}
	e, err := l.entry(h)
	if err != nil {
		return false, fmt.Errorf("layer entry %q: %w", h.Name, err)
	}
	if e != nil {
		l.layer.entries = append(l.layer.entries, *e)
	}
	return true, nil
}

// entry makes the entry of a header; nil when there is nothing to make.
func (l *layerReader) entry(h *tar.Header) (*entry, error) {
	path, err := splitPath(h.Name, l.budget.limits.PathLength)
	if err != nil {
		return nil, err
	}
	if len(path) > 0 {
		if strings.HasPrefix(path[0], metaPrefix) && path[0] != opaqueName {
			return nil, nil
		}
		for _, dir := range path[:len(path)-1] {
			if strings.HasPrefix(dir, whiteoutPrefix) {
				return nil, fmt.Errorf("%q is a whiteout and can't be a directory", dir)
			}
		}
		if hidden, ok := strings.CutPrefix(path[len(path)-1], whiteoutPrefix); ok {
			return whiteout(path, hidden)
		}
	}
	if h.Typeflag == tar.TypeLink {
		target, err := splitPath(h.Linkname, l.budget.limits.PathLength)
		if err != nil {
			return nil, fmt.Errorf("hard link to %q: %w", h.Linkname, err)
		}
		return &entry{path: path, link: target, isLink: true}, nil
	}
	if h.Typeflag == tar.TypeChar && h.Devmajor == 0 && h.Devminor == 0 {
		// overlayfs, with which the guest mounts the disk, takes such a device for its own kind of whiteout, as it does
		// under any other runtime.
		l.warn("character device 0:0, a whiteout of overlayfs", h.Name)
		return &entry{path: path, whiteout: true}, nil
	}
	n, err := l.inode(h)
	if err != nil {
		return nil, err
	}
	name := "root"
	if len(path) > 0 {
		name = path[len(path)-1]
	}
	if err := n.Check(name); err != nil {
		return nil, err
	}
	if n.IsRegular() {
		if err := spend(&l.budget.size, h.Size, l.budget.limits.Size, "bytes in its files"); err != nil {
			return nil, err
		}
		if l.w == nil {
			return &entry{path: path, node: n}, nil // archive/tar skips the content
		}
		if n.Data, err = l.w.Write(l.tr, h.Size); err != nil {
			return nil, err
		}
	}
	return &entry{path: path, node: n}, nil
}

// whiteout makes the entry of a path whose last component is whiteoutPrefix followed by hidden.
func whiteout(path []string, hidden string) (*entry, error) {
	parent := path[: len(path)-1 : len(path)-1]
	if path[len(path)-1] == opaqueName {
		return &entry{path: parent, opaque: true}, nil
	}
	if hidden == "" || hidden == "." || hidden == ".." {
		return nil, fmt.Errorf("a whiteout of %q points outside of its directory", hidden)
	}
	return &entry{path: append(parent, hidden), whiteout: true}, nil
}

// inode makes the inode of a header, without content.
func (l *layerReader) inode(h *tar.Header) (*erofs.Inode, error) {
	n := &erofs.Inode{
		Mode:      uint32(h.Mode) & 0o7777,
		Mtime:     h.ModTime.Unix(),
		MtimeNsec: uint32(h.ModTime.Nanosecond()),
	}
	if h.ModTime.IsZero() {
		n.Mtime = 0
	}
	// The last number means "none" to the kernel.
	if h.Uid < 0 || h.Gid < 0 || uint64(h.Uid) >= math.MaxUint32 || uint64(h.Gid) >= math.MaxUint32 {
		return nil, fmt.Errorf("owner %d:%d is beyond 32 bits", h.Uid, h.Gid)
	}
	n.UID, n.GID = uint32(h.Uid), uint32(h.Gid)
	switch h.Typeflag {
	case tar.TypeReg, '\x00', tar.TypeCont, tar.TypeGNUSparse:
		n.Mode |= erofs.ModeReg
	case tar.TypeDir:
		n.Mode |= erofs.ModeDir
		n.Children = map[string]*erofs.Inode{}
	case tar.TypeSymlink:
		n.Mode |= erofs.ModeLink
		n.Target = h.Linkname
	case tar.TypeChar, tar.TypeBlock:
		n.Mode |= erofs.ModeChar
		if h.Typeflag == tar.TypeBlock {
			n.Mode = n.Mode&0o7777 | erofs.ModeBlock
		}
		if h.Devmajor < 0 || h.Devminor < 0 || h.Devmajor > math.MaxUint32 || h.Devminor > math.MaxUint32 {
			return nil, fmt.Errorf("device number %d:%d is beyond Linux's range", h.Devmajor, h.Devminor)
		}
		n.Major, n.Minor = uint32(h.Devmajor), uint32(h.Devminor)
	case tar.TypeFifo:
		n.Mode |= erofs.ModeFifo
	default:
		return nil, fmt.Errorf("type %q is none that a layer can have", h.Typeflag)
	}
	n.Xattrs = l.xattrs(h)
	return n, nil
}

// xattrPrefix is that of the PAX records in which tar programs keep extended attributes.
const xattrPrefix = "SCHILY.xattr."

// xattrName undoes how GNU tar writes what a keyword can't hold, and what that is written with.
var xattrName = strings.NewReplacer("%3D", "=", "%25", "%")

// xattrs returns the extended attributes.
func (l *layerReader) xattrs(h *tar.Header) []erofs.Xattr {
	var list []erofs.Xattr
	for key, value := range h.PAXRecords {
		if kind, ok := strings.CutPrefix(key, "SCHILY.acl."); ok {
			// Names of users in a text mean nothing here; GNU tar keeps the binary form beside it by --xattrs.
			if _, ok := h.PAXRecords[xattrPrefix+"system.posix_acl_"+kind]; !ok {
				l.warn("ACL in text form", h.Name)
			}
			continue
		}
		name, ok := strings.CutPrefix(key, xattrPrefix)
		name = xattrName.Replace(name)
		switch {
		case !ok:
		case strings.HasPrefix(name, "trusted.overlay."):
			// overlayfs's own notes, which it hides from everybody under any other runtime too.
			l.warn("extended attribute "+name, h.Name)
		case !erofs.XattrStorable(name):
			// Such as com.apple.*; no file system of Linux would take it.
			l.warn("extended attribute "+name, h.Name)
		default:
			list = append(list, erofs.Xattr{Name: name, Value: value})
		}
	}
	// Two records may give one name in two ways of writing.
	slices.SortFunc(list, func(a, b erofs.Xattr) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Value, b.Value))
	})
	return slices.CompactFunc(list, func(a, b erofs.Xattr) bool { return a.Name == b.Name })
}

// splitPath splits a path below the image's root, which a leading slash is taken for.
func splitPath(path string, limit int) ([]string, error) {
	if len(path) > limit {
		return nil, fmt.Errorf("%w of %d bytes in a path", ErrLimit, limit)
	}
	var parts []string
	for part := range strings.SplitSeq(path, "/") {
		switch part {
		case "", ".":
			continue
		case "..":
			return nil, errors.New(`".." in a path could point outside of the image`)
		}
		if strings.Contains(part, "\x00") {
			return nil, errors.New("NUL in a path")
		}
		parts = append(parts, part)
	}
	if len(parts) > maxDepth {
		return nil, fmt.Errorf("%w of %d directories in a path", ErrLimit, maxDepth)
	}
	return parts, nil
}
