// Package archive is the form in which trees of files cross between host and guest: tar, packed and unpacked in the same way at
// both ends.
//
// The entry of what was copied comes first and is called "."; where that is a directory, what lies below follows by its path
// inside of it. So the receiving side alone decides where things go, and what arrives cannot name any other place. A file with
// holes has PAX records of ours and a map before its data; see sparse.go.
//
// Pack and Unpack may be called at any time and by several at once. They reach every file by descriptors of directories and
// never follow a link that whoever changes the tree meanwhile could have put in the way: see Tree.
package archive

import (
	"archive/tar"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// Self is the name of the first entry.
const Self = "."

// Tree is a directory in which paths are looked up without leaving it.
type Tree struct {
	// Root is the directory; O_PATH is enough.
	Root *os.File
	// FollowLinks follows symbolic links as a process does whose root is Root. Otherwise a link in the way is an error.
	FollowLinks bool
}

// lookups is how often a lookup is repeated that somebody who renames directories has disturbed (EAGAIN of openat2(2)).
const lookups = 64

// Open opens a path of the tree. A link in the last place is opened itself with O_PATH and O_NOFOLLOW.
func (t Tree) Open(name string, flags int) (*os.File, error) {
	how := unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Resolve: unix.RESOLVE_NO_MAGICLINKS}
	if t.FollowLinks {
		how.Resolve |= unix.RESOLVE_IN_ROOT
	} else {
		how.Resolve |= unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS
	}
	var fd int
	err := error(unix.EAGAIN)
	for i := 0; i < lookups && (errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR)); i++ {
		fd, err = unix.Openat2(int(t.Root.Fd()), name, &how)
	}
	switch {
	case err == nil:
		return os.NewFile(uintptr(fd), name), nil
	case errors.Is(err, unix.ELOOP) && !t.FollowLinks:
		return nil, fmt.Errorf("%q leads through a symbolic link, which is not followed", name)
	}
	return nil, &os.PathError{Op: "open", Path: name, Err: err}
}

// Stat is lstat(2) of a path of the tree; a slash at the path's end follows a link.
func (t Tree) Stat(name string) (unix.Stat_t, error) {
	var st unix.Stat_t
	f, err := t.Open(name, unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return st, err
	}
	defer f.Close()
	return st, unix.Fstat(int(f.Fd()), &st)
}

// maxLinks bounds the links of one path, as filepath.EvalSymlinks does.
const maxLinks = 255

// Evaluate follows every link of a path, as far as it exists, and returns where that leads as an absolute path of the tree.
func (t Tree) Evaluate(name string) (string, error) {
	done, rest := "/", strings.Split(name, "/")
	for links := 0; len(rest) > 0; {
		part := rest[0]
		rest = rest[1:]
		if part == "" || part == "." {
			continue
		}
		next := path.Join(done, part) // also for "..": what is done holds no link
		target, ok := t.readlink(next)
		if !ok || part == ".." {
			done = next
			continue
		}
		if links++; links > maxLinks {
			return "", &os.PathError{Op: "follow", Path: name, Err: unix.ELOOP}
		}
		if strings.HasPrefix(target, "/") {
			done = "/"
		}
		rest = append(strings.Split(target, "/"), rest...)
		if len(rest) > unix.PathMax {
			return "", &os.PathError{Op: "follow", Path: name, Err: unix.ENAMETOOLONG}
		}
	}
	return done, nil
}

func (t Tree) readlink(name string) (string, bool) {
	f, err := t.Open(name, unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return "", false
	}
	defer f.Close()
	target, err := readlinkOf(f)
	return target, err == nil
}

// readlinkOf returns where the link leads that f is.
func readlinkOf(f *os.File) (string, error) {
	b := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(f.Fd()), "", b)
	if err != nil {
		return "", err
	}
	return string(b[:n]), nil
}

// reopen opens what f, an O_PATH descriptor of a file that is no link, stands for.
func reopen(f *os.File, flags int) (*os.File, error) {
	return os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), flags|unix.O_CLOEXEC, 0)
}

// kernelFilesystems are those whose files the kernel makes up: their sizes say nothing, and to read or write one may have effects.
var kernelFilesystems = map[int64]string{
	unix.PROC_SUPER_MAGIC: "proc", unix.SYSFS_MAGIC: "sysfs", unix.CGROUP2_SUPER_MAGIC: "cgroup2", unix.CGROUP_SUPER_MAGIC: "cgroup",
	unix.DEVPTS_SUPER_MAGIC: "devpts", unix.DEBUGFS_MAGIC: "debugfs", unix.TRACEFS_MAGIC: "tracefs", unix.SECURITYFS_MAGIC: "securityfs",
	unix.BPF_FS_MAGIC: "bpf", unix.EFIVARFS_MAGIC: "efivarfs", mqueueMagic: "mqueue",
}

// mqueueMagic is MQUEUE_MAGIC of the kernel's ipc/mqueue.c.
const mqueueMagic = 0x19800202

// KernelFilesystem is the type of f's file system where files cannot be copied from or to it: proc, sysfs and the like.
func KernelFilesystem(f *os.File) (string, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return "", err
	}
	return kernelFilesystems[int64(st.Type)], nil //nolint:unconvert // its type differs between architectures
}

// xattrPrefix marks the PAX records that carry extended attributes.
const xattrPrefix = "SCHILY.xattr."

// Carried says whether an extended attribute is copied: what programs have set, and a program's capabilities. Others belong to
// one system's security module or overlay, and mean something else on the next.
func Carried(name string) bool {
	return name == "security.capability" || strings.HasPrefix(name, "user.")
}

// isRegular says whether an entry is a file with content.
func isRegular(h *tar.Header) bool {
	return h.Typeflag == tar.TypeReg || h.Typeflag == 0 || h.Typeflag == tar.TypeCont || h.Typeflag == tar.TypeGNUSparse
}

// Local is the name of an entry without leading and superfluous slashes and dots. It fails for one that leads out of the tree.
func Local(name string) (string, error) {
	clean := path.Clean(strings.TrimLeft(name, "/"))
	if clean == ".." || strings.HasPrefix(clean, "../") {
		return "", fmt.Errorf("the archive names %q, which lies outside of the destination", name)
	}
	return clean, nil
}
