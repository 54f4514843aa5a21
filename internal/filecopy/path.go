package filecopy

import (
	"errors"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Docker's errors of a copy whose source and destination do not go together.
var (
	errNotDirectory  = errors.New("not a directory")
	errDirNotExists  = errors.New("no such directory")
	errCannotCopyDir = errors.New("cannot copy directory")
)

// SplitArgument splits CONTAINER:PATH. The container is empty for a path of the host, which may hold a colon where it begins with a
// slash or a dot.
func SplitArgument(arg string) (container, path string) {
	if filepath.IsAbs(arg) {
		return "", arg
	}
	container, path, ok := strings.Cut(arg, ":")
	if !ok || strings.HasPrefix(container, ".") {
		return "", arg
	}
	return container, path
}

// absolute is a path of the host, with the slash or the dot at its end.
func absolute(path string) (string, error) {
	abs, err := filepath.Abs(path)
	return trailing(abs, path), err
}

// trailing gives a cleaned path the "/" or "/." that the original has at its end.
func trailing(clean, original string) string {
	switch {
	case currentDir(original) && !currentDir(clean):
		return strings.TrimSuffix(clean, "/") + "/."
	case strings.HasSuffix(original, "/") && !strings.HasSuffix(clean, "/"):
		return clean + "/"
	}
	return clean
}

// currentDir says whether a path ends in a ".".
func currentDir(path string) bool { return filepath.Base(path) == "." }

// assertsDir says whether only a directory can be meant.
func assertsDir(path string) bool { return strings.HasSuffix(path, "/") || currentDir(path) }

// splitEntry splits a path into a directory and the name in it. A "." at its end is such a name.
func splitEntry(path string) (dir, base string) {
	clean := filepath.Clean(path)
	if currentDir(path) {
		clean += "/."
	}
	// Not filepath.Dir of the whole, which would clean the "." away and then one more.
	i := strings.LastIndexByte(clean, '/')
	if i < 0 {
		return ".", clean
	}
	return filepath.Clean(clean[:i+1]), filepath.Base(clean)
}

// baseOf is the name that a source's copy gets: empty where its content is meant, as with "/." at the end, and for the root.
func baseOf(source string) string {
	_, base := splitEntry(source)
	if base == "." || base == "/" || base == ".." {
		return ""
	}
	return base
}

// followed is where a link leads, with the end of the path that named the link.
func followed(link, target string) string { return trailing(target, link) }

// destination is what there is where a copy goes.
type destination struct {
	path          string
	exists, isDir bool
}

// place says into which directory a source goes and by which name; no name: its content goes into the directory itself. The table
// is Docker's.
func place(base string, isDir bool, dst destination) (dir, name string, err error) {
	dir, name = splitEntry(dst.path)
	if name == "." || name == "/" {
		name = ""
	}
	switch {
	case dst.exists && dst.isDir:
		if !isDir && base == "" {
			return "", "", errNotDirectory
		}
		return dst.path, base, nil
	case dst.exists && isDir:
		return "", "", errCannotCopyDir
	case !dst.exists && !isDir && assertsDir(dst.path):
		return "", "", errDirNotExists
	}
	return dir, name, nil
}

// localDestination is what a path of the host is as the destination of a copy. Links are followed, also one that leads to nothing
// yet; its parent directory must be there.
func localDestination(path string) (destination, error) {
	const most = 10 // links; Docker's bound
	original := path
	info, err := os.Lstat(path)
	for n := 0; err == nil && info.Mode()&os.ModeSymlink != 0; n++ {
		if n > most {
			return destination{}, errors.New("too many symlinks in " + original)
		}
		target, rerr := os.Readlink(path)
		if rerr != nil {
			return destination{}, rerr
		}
		if !filepath.IsAbs(target) {
			parent, _ := splitEntry(path)
			target = filepath.Join(parent, target)
		}
		path = target
		info, err = os.Lstat(path)
	}
	if err == nil {
		return destination{path, true, info.IsDir()}, nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return destination{}, err
	}
	parent, _ := splitEntry(path)
	above, err := os.Stat(parent)
	if err == nil && !above.IsDir() {
		err = errNotDirectory
	}
	return destination{path: path}, err
}

// localSource opens what is copied from the host. A link in the last place is itself copied, unless it is to be followed or a slash
// follows it.
func localSource(path string, follow bool) (f *os.File, isDir bool, err error) {
	flags := unix.O_PATH | unix.O_CLOEXEC
	if !follow {
		flags |= unix.O_NOFOLLOW
	}
	fd, err := unix.Open(path, flags, 0)
	if err != nil {
		return nil, false, &os.PathError{Op: "lstat", Path: path, Err: err}
	}
	f = os.NewFile(uintptr(fd), path)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		f.Close()
		return nil, false, &os.PathError{Op: "lstat", Path: path, Err: err}
	}
	return f, st.Mode&unix.S_IFMT == unix.S_IFDIR, nil
}
