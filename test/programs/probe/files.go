package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"golang.org/x/sys/unix"
)

// descriptors are the open files that the process was given.
func descriptors() report {
	r := report{}
	for fd := range 1024 {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			continue
		}
		link, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
		if err != nil {
			link = cause(err)
		}
		if strings.HasPrefix(link, "/sys/fs/cgroup/") {
			continue // Go's runtime follows the limit in processors
		}
		if kind, _, ok := strings.Cut(link, ":["); ok {
			link = kind
		}
		_, terr := unix.IoctlGetTermios(fd, unix.TCGETS)
		flags, _ := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
		r[fmt.Sprint(fd)] = report{
			"what": link, "terminal": fmt.Sprint(terr == nil), "uid": fmt.Sprint(st.Uid), "gid": fmt.Sprint(st.Gid),
			"access": fmt.Sprint(flags & unix.O_ACCMODE), "nonblock": fmt.Sprint(flags&unix.O_NONBLOCK != 0),
		}
	}
	return r
}

// mounts are those of the process's namespace by their places.
func mounts() report {
	r := report{}
	for _, line := range fieldsOf("/proc/self/mountinfo", "\n") {
		before, after, ok := strings.Cut(line, " - ")
		f, g := strings.Fields(before), strings.Fields(after)
		if !ok || len(f) < 6 || len(g) < 2 {
			continue
		}
		m := report{"root": f[3], "type": g[0], "source": g[1], "options": sorted(f[5]), "propagation": strings.Join(f[6:], " ")}
		if len(g) > 2 {
			m["super"] = sorted(g[2])
		}
		place := f[4]
		if strings.HasPrefix(place, "/sys/fs/cgroup/") {
			continue // cgroup v1's, which a machine has or has not
		}
		for r[place] != nil {
			place += "+" // one over the other
		}
		r[place] = m
	}
	return r
}

func sorted(options string) string {
	list := strings.Split(options, ",")
	list = slices.DeleteFunc(list, func(o string) bool { return o == "inode64" }) // how a kernel was built
	sort.Strings(list)
	return strings.Join(list, ",")
}

// devices are the entries of /dev, without what others have mounted below it.
func devices() report {
	r := report{}
	err := filepath.WalkDir("/dev", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || path == "/dev" {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			r[path] = cause(err)
			return nil
		}
		what := fmt.Sprintf("%s %04o %d:%d", kind(st.Mode), st.Mode&0o7777, st.Uid, st.Gid)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFCHR, unix.S_IFBLK:
			what += fmt.Sprintf(" dev %d,%d %s", unix.Major(st.Rdev), unix.Minor(st.Rdev), opened(path))
		case unix.S_IFLNK:
			link, _ := os.Readlink(path)
			what = "link " + link
		}
		r[path] = what
		return nil
	})
	if err != nil {
		r["error"] = err.Error()
	}
	return r
}

// opened says how a device answers to being opened.
func opened(path string) string {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	if err != nil {
		return cause(err)
	}
	unix.Close(fd)
	return "opens"
}

func kind(mode uint32) string {
	return map[uint32]string{unix.S_IFCHR: "char", unix.S_IFBLK: "block", unix.S_IFDIR: "dir", unix.S_IFREG: "file",
		unix.S_IFLNK: "link", unix.S_IFIFO: "fifo", unix.S_IFSOCK: "socket"}[mode&unix.S_IFMT]
}

// triedPaths are those that container runtimes mask or make read-only, and some that they do not.
var triedPaths = []string{
	"/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
	"/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
	"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger", "/proc/sys/kernel/hostname", "/proc/sys/vm/swappiness",
	"/proc/self/oom_score_adj", "/sys", "/sys/kernel/mm/ksm/run", "/sys/fs/cgroup", "/dev/shm", "/dev/mqueue", "/tmp", "/", "/etc/passwd",
}

// paths says for each of them whether it can be read, has content, and can be written.
func paths() report {
	r := report{}
	for _, p := range triedPaths {
		r[p] = "read " + readable(p) + ", write " + writable(p)
	}
	return r
}

func readable(path string) string {
	info, err := os.Stat(path)
	if err != nil {
		return refusal(err)
	}
	if info.IsDir() {
		entries, err := os.ReadDir(path)
		if err != nil {
			return refusal(err)
		}
		return map[bool]string{true: "empty", false: "entries"}[len(entries) == 0]
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return refusal(err)
	}
	defer unix.Close(fd)
	n, err := unix.Read(fd, make([]byte, 16))
	if err != nil {
		return refusal(err)
	}
	return map[bool]string{true: "empty", false: "bytes"}[n == 0]
}

// refusal is why something is not done: which of the rules was asked first is the kernel's affair.
func refusal(err error) string {
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EROFS) {
		return "refused"
	}
	return cause(err)
}

// writable tries to open a file for writing, or to make one in a directory; nothing is changed.
func writable(path string) string {
	info, err := os.Stat(path)
	if err != nil {
		return refusal(err)
	}
	if !info.IsDir() {
		fd, err := unix.Open(path, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			return refusal(err)
		}
		unix.Close(fd)
		return "opens"
	}
	probe := filepath.Join(path, "probe")
	if err := unix.Mkdir(probe, 0o700); err != nil {
		return refusal(err)
	}
	if err := unix.Rmdir(probe); err != nil {
		return refusal(err)
	}
	return "makes"
}
