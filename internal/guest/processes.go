package guest

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/guestapi"
)

const (
	// maxProcesses bounds a list of processes, maxArgs what it shows of one's arguments, in bytes: together less than ttrpc's
	// largest message, 4 MiB.
	maxProcesses = 4096
	maxArgs      = 512
	// maxArgCount bounds their number: empty ones have one byte in /proc and two in a message.
	maxArgCount = 64
	// clockTicks is USER_HZ, which /proc counts time in on every architecture that there is a guest for (proc(5)).
	clockTicks = 100
	tick       = time.Second / clockTicks
)

// processes lists the processes of the container's cgroup, and below it.
func (c *container) processes() (*guestapi.ListProcessesResponse, error) {
	pids, err := cgroupPids(c.cgroup())
	if err != nil {
		return nil, err
	}
	answer := &guestapi.ListProcessesResponse{Total: uint32(len(pids))}
	booted := time.Now().Add(-time.Duration(bootNanos()))
	inside := map[int]uint32{} // a process's pid in the container by that in the guest
	parents := map[*guestapi.Process]int{}
	for _, pid := range pids[:min(len(pids), maxProcesses)] {
		p, parent, err := readProcess(filepath.Join("/proc", strconv.Itoa(pid)), booted)
		if err != nil {
			answer.Total-- // it has ended
			continue
		}
		inside[pid], parents[p] = p.Pid, parent
		answer.Processes = append(answer.Processes, p)
	}
	for p, parent := range parents {
		p.Ppid = inside[parent]
	}
	c.nameOwners(answer.Processes)
	slices.SortFunc(answer.Processes, func(a, b *guestapi.Process) int { return int(a.Pid) - int(b.Pid) })
	return answer, nil
}

// cgroupPids are the processes of a cgroup and below it.
func cgroupPids(cgroup string) ([]int, error) {
	var pids []int
	err := filepath.WalkDir(cgroup, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		b, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		// A threaded cgroup has no processes of its own: its domain's has them.
		if err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
			return err
		}
		for field := range strings.FieldsSeq(string(b)) {
			if pid, err := strconv.Atoi(field); err == nil && pid > 1 {
				pids = append(pids, pid)
			}
		}
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		err = nil // a cgroup that was removed meanwhile
	}
	slices.Sort(pids)
	return pids, err
}

// readProcess reads what /proc tells of a process, with its parent's pid in the guest.
func readProcess(dir string, booted time.Time) (p *guestapi.Process, parent int, err error) {
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return nil, 0, err
	}
	if p, parent, err = parseStat(string(stat), booted); err != nil {
		return nil, 0, err
	}
	statusFile, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		return nil, 0, err
	}
	if err := parseStatus(p, string(statusFile)); err != nil {
		return nil, 0, err
	}
	cmdline, err := readHead(filepath.Join(dir, "cmdline"), maxArgs)
	if err != nil {
		return nil, 0, err
	}
	if len(cmdline) > 0 {
		args := strings.Split(strings.TrimSuffix(string(bytes.ToValidUTF8(cmdline, []byte("?"))), "\x00"), "\x00")
		p.Args = args[:min(len(args), maxArgCount)]
	}
	return p, parent, nil
}

func readHead(path string, most int) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, most)
	n, err := f.Read(b)
	if n > 0 {
		err = nil
	} else if n == 0 {
		return nil, nil
	}
	return b[:n], err
}

// parseStat reads /proc/PID/stat. The fields have the numbers of proc(5).
func parseStat(text string, booted time.Time) (p *guestapi.Process, parent int, err error) {
	// The name, field 2, may hold anything, parentheses included.
	open, end := strings.IndexByte(text, '('), strings.LastIndexByte(text, ')')
	if open < 0 || end < open {
		return nil, 0, fmt.Errorf("%.100q is no line of /proc/PID/stat", text)
	}
	fields := strings.Fields(text[end+1:])
	if len(fields) < 22 {
		return nil, 0, fmt.Errorf("%.100q is no line of /proc/PID/stat", text)
	}
	field := func(n int) int64 {
		v, perr := strconv.ParseInt(fields[n-3], 10, 64)
		if perr != nil {
			v = 0 // an unsigned one beyond: a size that is not of this world
		}
		return v
	}
	p = &guestapi.Process{
		Name: strings.ToValidUTF8(text[open+1:end], "?"), State: fields[0],
		Tty:              terminalName(uint64(field(7))),
		CpuNanos:         uint64(field(14)+field(15)) * uint64(tick),
		Nice:             int32(field(19)),
		Threads:          uint32(field(20)),
		StartedUnixNanos: booted.Add(time.Duration(field(22)) * tick).UnixNano(),
		VirtualMemory:    uint64(field(23)),
		ResidentMemory:   uint64(field(24)) * uint64(os.Getpagesize()),
	}
	return p, int(field(4)), nil
}

// terminalName is that of a terminal by its device number (Documentation/admin-guide/devices.txt).
func terminalName(dev uint64) string {
	switch major, minor := unix.Major(dev), unix.Minor(dev); {
	case dev == 0:
		return ""
	case major >= 136 && major <= 143:
		return fmt.Sprintf("pts/%d", (major-136)<<8|minor)
	case major == 5 && minor == 1:
		return "console"
	case major == 4 && minor >= 64:
		return fmt.Sprintf("ttyS%d", minor-64)
	case major == 4:
		return fmt.Sprintf("tty%d", minor)
	}
	return "?"
}

// parseStatus reads from /proc/PID/status what stat lacks: owners, and ids in the container's pid namespace, the second of those
// that the process has; a process that shares the guest's has one.
func parseStatus(p *guestapi.Process, text string) error {
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(line, ":")
		fields := strings.Fields(value)
		if len(fields) == 0 {
			continue
		}
		id := func(i int) uint32 {
			n, _ := strconv.ParseUint(fields[min(i, len(fields)-1)], 10, 32)
			return uint32(n)
		}
		switch key {
		case "Uid":
			p.Uid = id(1) // the effective one
		case "Gid":
			p.Gid = id(1)
		case "NSpid":
			p.Pid = id(1)
		case "NSpgid":
			p.Pgid = id(1)
		case "NSsid":
			p.Sid = id(1)
		}
	}
	if p.Pid == 0 {
		return errors.New("a process without a pid")
	}
	return nil
}

// nameOwners names users and groups by the container's own files. Where that fails they stay without names.
func (c *container) nameOwners(processes []*guestapi.Process) {
	rootfs, err := unix.Open(c.rootfs(), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(rootfs)
	users, groups := map[int]string{}, map[int]string{}
	for _, p := range processes {
		users[int(p.Uid)], groups[int(p.Gid)] = "", ""
	}
	if passwd, err := openIn(rootfs, "etc/passwd"); err == nil {
		_, _ = user.ParsePasswdFilter(passwd, func(u user.User) bool { return setName(users, u.Uid, u.Name) })
		_ = passwd.Close()
	}
	if group, err := openIn(rootfs, "etc/group"); err == nil {
		_, _ = user.ParseGroupFilter(group, func(g user.Group) bool { return setName(groups, g.Gid, g.Name) })
		_ = group.Close()
	}
	for _, p := range processes {
		p.User, p.Group = users[int(p.Uid)], groups[int(p.Gid)]
	}
}

// maxOwner is the longest name of a user or a group that is passed on, in bytes (useradd(8)).
const maxOwner = 32

// setName keeps the first name of an id that is asked for. It says false, so that no list is made.
func setName(names map[int]string, id int, name string) bool {
	if have, asked := names[id]; asked && have == "" && len(name) <= maxOwner {
		names[id] = strings.ToValidUTF8(name, "?")
	}
	return false
}
