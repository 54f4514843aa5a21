package rootfs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/rootfs/tree"
)

// BundleRoot is what the root directory of an OCI bundle has turned out to be:
//
//   - an overlay: its lower layers become the image disk, which all containers of the same layers share; its upper layer, and
//     a lower one that is this container's only, are read anew at each start (see StartDisk);
//   - a snapshot of one layer, bound to its place: the same, with the layer for a lower, or, if it may be written to, for an upper;
//   - any other directory: what it holds may be another thing each time, so a disk is made of it at each start.
//
// What the guest writes goes to the writable disk; nothing is written to the root. Close gives the descriptors back that hold
// the layers: they are those that were there at the call, whatever happens to their paths.
type BundleRoot struct {
	root *os.File
	// overlay says that root is an overlay's.
	overlay bool
	user    bool
	layers  []layerDir // for the image disk, the topmost first; those of an overlay or snapshot
	options []string
	private *layerDir
	upper   *layerDir
}

// OpenBundleRoot finds out what a bundle's root directory is.
func OpenBundleRoot(path string) (_ *BundleRoot, err error) {
	root, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fmt.Errorf("the bundle's root: %w", notFound(err))
	}
	r := &BundleRoot{root: root}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("the bundle's root %s: %w", path, err), r.Close())
		}
	}()
	mount, err := mountOf(root)
	if err != nil || mount == nil {
		return r, err
	}
	if mount.FSType == "overlay" {
		return r, r.openOverlay(mount)
	}
	return r, r.openSnapshot(mount)
}

// mountOf returns the mount of which a directory is the root, nil when it is none's.
func mountOf(root *os.File) (*mountinfo.Info, error) {
	var st unix.Statx_t
	if err := unix.Statx(int(root.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &st); err != nil {
		return nil, err
	}
	if st.Attributes&unix.STATX_ATTR_MOUNT_ROOT == 0 {
		return nil, nil
	}
	mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		found := uint64(m.ID) == st.Mnt_id
		return !found, found
	})
	if err != nil {
		return nil, err
	}
	if len(mounts) == 0 {
		return nil, errors.New("its mount is not among those of this process")
	}
	return mounts[0], nil
}

func (r *BundleRoot) openOverlay(mount *mountinfo.Info) error {
	o, err := parseOverlay(mount.VFSOptions)
	if err != nil {
		return err
	}
	base, err := baseOf(o, mount.Mountpoint)
	if err != nil {
		return err
	}
	r.overlay, r.user, r.options = true, o.user, o.options
	for _, lower := range o.lowers {
		l, err := openLayer(absolute(base, lower.path))
		if err != nil {
			return fmt.Errorf("its lower layer: %w", err)
		}
		l.data = lower.data
		r.layers = append(r.layers, l)
	}
	if o.upper == "" {
		return nil
	}
	upper, err := openLayer(absolute(base, o.upper))
	if err != nil {
		return fmt.Errorf("its upper layer: %w", err)
	}
	r.upper = &upper
	private, err := r.layers[0].private()
	if err == nil && private {
		r.private, r.layers = &r.layers[0], r.layers[1:]
	}
	return err
}

// baseOf returns the directory in which the paths of an overlay that are relative begin: where the process was that mounted it.
// Docker and Podman mount HOME/ID/merged in HOME, containerd SNAPSHOTS/NUMBER/fs anywhere in SNAPSHOTS.
func baseOf(o overlay, mountpoint string) (string, error) {
	var relative []string
	for _, path := range append([]string{o.upper}, paths(o.lowers)...) {
		if path != "" && !filepath.IsAbs(path) {
			relative = append(relative, path)
		}
	}
	if len(relative) == 0 {
		return "", nil
	}
	bases := []string{filepath.Join(mountpoint, "../..")}
	if filepath.IsAbs(o.upper) {
		bases = append(bases, filepath.Join(o.upper, "../.."))
	}
	for _, base := range bases {
		if !slices.ContainsFunc(relative, func(path string) bool { return !isDir(filepath.Join(base, path)) }) {
			return base, nil
		}
	}
	return "", fmt.Errorf("the overlay's layers have relative paths, and %q is in none of %s", relative[0], strings.Join(bases, ", "))
}

func paths(lowers []lowerDir) []string {
	var all []string
	for _, l := range lowers {
		all = append(all, l.path)
	}
	return all
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

func absolute(base, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(base, path)
}

// openSnapshot looks whether the root is a layer of a store that is bound to its place. One that is not stays a directory.
func (r *BundleRoot) openSnapshot(mount *mountinfo.Info) error {
	path, err := sourceOf(mount)
	if err != nil || path == "" {
		return err
	}
	l, err := openLayer(path)
	if err != nil {
		return nil //nolint:nilerr // where it lies is another's business now; what it holds is in root
	}
	id, err := identify(r.root)
	if err != nil || id != l.id || !l.stored() {
		return errors.Join(err, l.dir.Close())
	}
	if slices.Contains(strings.Split(mount.Options, ","), "ro") {
		r.layers = []layerDir{l}
	} else {
		r.upper = &l
	}
	return nil
}

// sourceOf returns where a directory that is bound lies beside; empty when that cannot be said.
func sourceOf(bound *mountinfo.Info) (string, error) {
	mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		inside := bound.Root == m.Root || strings.HasPrefix(bound.Root, strings.TrimSuffix(m.Root, "/")+"/")
		return m.ID == bound.ID || m.Major != bound.Major || m.Minor != bound.Minor || !inside, false
	})
	if err != nil {
		return "", err
	}
	for _, m := range mounts {
		if path := filepath.Join(m.Mountpoint, strings.TrimPrefix(bound.Root, m.Root)); isDir(path) {
			return path, nil
		}
	}
	return "", nil
}

// Close may be called more than once.
func (r *BundleRoot) Close() error {
	errs := []error{r.root.Close()}
	for _, l := range r.layers {
		errs = append(errs, l.dir.Close())
	}
	for _, l := range []*layerDir{r.upper, r.private} {
		if l != nil {
			errs = append(errs, l.dir.Close())
		}
	}
	r.layers, r.upper, r.private = nil, nil, nil
	errs = slices.DeleteFunc(errs, func(err error) bool { return errors.Is(err, os.ErrClosed) })
	return errors.Join(errs...)
}

// writableName is that of the writable disk beside an upper layer.
const writableName = "runcvm.ext4"

// WritablePath returns where the container's writable disk lies: beside the upper layer where an engine's store keeps that,
// since the store removes the one together with the other, and brings it back for the container's next start; else at own,
// which is in the container's own directory.
func (r *BundleRoot) WritablePath(own string) string {
	if r.upper != nil && r.upper.stored() {
		return filepath.Join(filepath.Dir(r.upper.path), writableName)
	}
	return own
}

// shared says whether the layers' identity stands for their content, so that their disk can be another container's too.
func (r *BundleRoot) shared() bool {
	return !slices.ContainsFunc(r.layers, func(l layerDir) bool { return !l.stored() || l.id.Birth == 0 })
}

// isDirectory says whether the root is neither an overlay nor a snapshot.
func (r *BundleRoot) isDirectory() bool { return len(r.layers) == 0 && r.upper == nil && !r.overlay }

// asUpper says how the layers that are only this container's are read.
func (r *BundleRoot) asUpper() *tree.Upper { return &tree.Upper{Merged: r.root, User: r.user} }
