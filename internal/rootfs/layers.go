package rootfs

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// layerDir is a directory that an overlay has for a layer, held by a descriptor.
type layerDir struct {
	dir *os.File
	// path is where the directory lies now.
	path string
	id   identity
	// data says that the layer only holds contents that others refer to ("::" in overlayfs's lowerdir).
	data bool
}

// identity tells a directory from every other, one that had the same path before included.
type identity struct {
	Major, Minor uint32
	Inode        uint64
	// Generation is the inode's, where its file system has one; the same number never comes twice then.
	Generation uint32
	// Birth is when the directory was made, in nanoseconds since the epoch; 0 where the file system does not say.
	Birth int64
}

func (i identity) String() string {
	return fmt.Sprintf("%d:%d %d %d %d", i.Major, i.Minor, i.Inode, i.Generation, i.Birth)
}

// openLayer opens a directory; the path may go through symbolic links, as Docker's short names do.
func openLayer(path string) (layerDir, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return layerDir{}, notFound(err)
	}
	l := layerDir{dir: f}
	if l.id, err = identify(f); err == nil {
		l.path, err = os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	}
	if err != nil {
		return layerDir{}, errors.Join(fmt.Errorf("layer %s: %w", path, err), f.Close())
	}
	return l, nil
}

// fsIocGetversion is FS_IOC_GETVERSION of linux/fs.h, on 64-bit machines other than PowerPC, MIPS and SPARC.
const fsIocGetversion = 0x80087601

func identify(f *os.File) (identity, error) {
	var st unix.Statx_t
	if err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &st); err != nil {
		return identity{}, err
	}
	id := identity{Major: st.Dev_major, Minor: st.Dev_minor, Inode: st.Ino}
	if st.Mask&unix.STATX_BTIME != 0 {
		id.Birth = st.Btime.Sec*1e9 + int64(st.Btime.Nsec)
	}
	// The kernel writes 32 bits, whatever the name of the request says of a long.
	var generation [2]uint32
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), fsIocGetversion, uintptr(unsafe.Pointer(&generation))); errno == 0 {
		id.Generation = generation[0]
	}
	return id, nil
}

// stored says whether the directory is a layer in the store of an engine. Such a store writes a layer once and gives it to
// nobody to change, so its identity stands for its content; and it removes all that lies beside a layer together with it.
func (l layerDir) stored() bool {
	dir, name := filepath.Split(l.path)
	dir = filepath.Clean(dir)
	switch name {
	case "diff": // Docker's overlay2, and containers/storage of Podman and CRI-O: ID/diff, and ID/link with its short name
		info, err := os.Lstat(filepath.Join(dir, "link"))
		return err == nil && info.Mode().IsRegular()
	case "fs": // containerd's overlayfs: snapshots/NUMBER/fs beside metadata.db
		snapshots, number := filepath.Split(dir)
		info, err := os.Lstat(filepath.Join(snapshots, "..", "metadata.db"))
		return err == nil && info.Mode().IsRegular() && filepath.Base(snapshots) == "snapshots" && number != "" &&
			strings.Trim(number, "0123456789") == ""
	}
	return false
}

// maxPrivate bounds the files and directories of a container's private lower layer: Docker's has some 15.
const maxPrivate = 64

// private says whether a lower layer is one that Docker makes for a single container: mount points, all of them empty, the link
// /etc/mtab, and /.dockerenv, which no image has unless it was made of a container. It is known by that content, since only
// one of Docker's two image stores shows by a name (ID-init) whose layer it is. To take another layer for private costs nothing
// but that: it is read for each container, and not once.
func (l layerDir) private() (bool, error) {
	marked, count := false, 0
	root, err := os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", l.dir.Fd()))
	if err != nil {
		return false, fmt.Errorf("layer %s: %w", l.path, err)
	}
	defer root.Close()
	foreign := errors.New("something else is in it")
	err = fs.WalkDir(root.FS(), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if count++; count > maxPrivate {
			return foreign
		}
		marked = marked || path == ".dockerenv"
		switch d.Type() {
		case fs.ModeDir, fs.ModeSymlink:
			return nil
		case 0:
			info, err := d.Info()
			if err == nil && info.Size() > 0 {
				err = foreign
			}
			return err
		}
		return foreign
	})
	if errors.Is(err, foreign) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("layer %s: %w", l.path, err)
	}
	return marked, nil
}

// bundleFormat is part of every key of a disk that is made of layers; see formatVersion.
const bundleFormat = 1

// keyOfLayers returns what the disk of layers is found by: 64 hexadecimal digits.
func keyOfLayers(layers []layerDir, options []string, cacheKey string) string {
	h := sha256.New()
	fmt.Fprintf(h, "layers' disk %d\n", bundleFormat)
	for _, l := range layers {
		fmt.Fprintf(h, "layer %s %t\n", l.id, l.data)
	}
	for _, o := range options {
		fmt.Fprintf(h, "option %s\n", o)
	}
	_, _ = io.WriteString(h, "key "+cacheKey+"\n") // never fails
	return fmt.Sprintf("%x", h.Sum(nil))
}

// notFound keeps engines from taking the lack of something of theirs for that of the container's program.
func notFound(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		if p, ok := errors.AsType[*fs.PathError](err); ok {
			return &missing{p.Path}
		}
	}
	return err
}

type missing struct{ path string }

func (m *missing) Error() string     { return m.path + " is not there" }
func (m *missing) Is(err error) bool { return err == fs.ErrNotExist }
