package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// limitNames are the limits as /proc/PID/limits calls them, and in short.
var limitNames = map[string]string{"Max cpu time": "cpu", "Max file size": "fsize", "Max data size": "data", "Max stack size": "stack",
	"Max core file size": "core", "Max resident set": "rss", "Max processes": "nproc", "Max open files": "nofile",
	"Max locked memory": "memlock", "Max address space": "as", "Max file locks": "locks", "Max pending signals": "sigpending",
	"Max msgqueue size": "msgqueue", "Max nice priority": "nice", "Max realtime priority": "rtprio", "Max realtime timeout": "rttime"}

// limits are those of the shell's child, each as SOFT:HARD.
func limits(status string) report {
	r := report{}
	for line := range strings.Lines(status) {
		for long, short := range limitNames {
			if rest, ok := strings.CutPrefix(line, long+"  "); ok {
				if f := strings.Fields(rest); len(f) >= 2 {
					r[short] = f[0] + ":" + f[1]
				}
			}
		}
	}
	return r
}

// cgroups are the container's limits, in the terms of cgroup v2, wherever its cgroup file system shows them.
func cgroups() report {
	const root = "/sys/fs/cgroup"
	r := report{"paths": cgroupPaths()}
	if _, err := os.Stat(filepath.Join(root, "cgroup.controllers")); err == nil {
		for name, file := range map[string]string{"memory": "memory.max", "low": "memory.low", "swap": "memory.swap.max",
			"pids": "pids.max", "cpu": "cpu.max", "weight": "cpu.weight"} {
			r[name] = text(filepath.Join(root, file))
		}
		return r
	}
	v1 := func(controller, file string) string { return text(filepath.Join(root, controller, file)) }
	memory, both := v1("memory", "memory.limit_in_bytes"), v1("memory", "memory.memsw.limit_in_bytes")
	r["memory"], r["swap"] = unlimited(memory), difference(both, memory)
	r["low"] = v1Reservation(v1("memory", "memory.soft_limit_in_bytes"))
	r["pids"] = v1("pids", "pids.max")
	quota := v1("cpu", "cpu.cfs_quota_us")
	if quota == "-1" {
		quota = "max"
	}
	r["cpu"] = quota + " " + v1("cpu", "cpu.cfs_period_us")
	r["weight"] = weight(v1("cpu", "cpu.shares"))
	return r
}

// v1Unlimited is the least value that stands for no limit: the greatest multiple of the page size in an int64.
const v1Unlimited = 1<<63 - 4096

func unlimited(s string) string {
	if n, err := strconv.ParseInt(s, 10, 64); err == nil && n >= v1Unlimited {
		return "max"
	}
	return s
}

// v1Reservation is the soft limit, which is none by default in v1 and 0 in v2.
func v1Reservation(s string) string {
	if unlimited(s) == "max" {
		return "0"
	}
	return s
}

func difference(both, memory string) string {
	a, err := strconv.ParseInt(both, 10, 64)
	b, err2 := strconv.ParseInt(memory, 10, 64)
	switch {
	case err != nil:
		return both
	case err2 != nil || a >= v1Unlimited:
		return "max"
	}
	return fmt.Sprint(a - b)
}

// weight is a share of v1 as a weight of v2, by the formula that all runtimes have in common.
func weight(shares string) string {
	n, err := strconv.ParseInt(shares, 10, 64)
	if err != nil {
		return shares
	}
	if n == 1024 {
		return "100" // both defaults
	}
	return fmt.Sprint(1 + (n-2)*9999/262142)
}

// cgroupPaths are the different paths in /proc/self/cgroup.
func cgroupPaths() []string {
	var paths []string
	seen := map[string]bool{}
	for _, line := range fieldsOf("/proc/self/cgroup", "\n") {
		if parts := strings.SplitN(line, ":", 3); len(parts) == 3 && !seen[parts[2]] {
			seen[parts[2]] = true
			paths = append(paths, parts[2])
		}
	}
	return paths
}

func sysctls() report {
	r := report{}
	for _, name := range []string{"kernel.hostname", "kernel.domainname", "kernel.msgmax", "kernel.shmmax", "kernel.shm_rmid_forced",
		"kernel.sem", "fs.mqueue.msg_max", "net.core.somaxconn", "net.ipv4.ip_forward", "net.ipv4.ping_group_range",
		"net.ipv4.ip_unprivileged_port_start", "net.ipv4.tcp_keepalive_time"} {
		r[name] = text("/proc/sys/" + strings.ReplaceAll(name, ".", "/"))
	}
	return r
}

// answer is whether a call was allowed. What else a kernel says to arguments that make no sense depends on its configuration.
func answer(err error) string {
	switch {
	case errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES):
		return "refused"
	case errors.Is(err, unix.ENOSYS):
		return "no such call"
	}
	return "allowed"
}

// calls says how system calls answer that a seccomp profile, a capability or both decide about. None of them changes anything.
func calls() report {
	try := func(number uintptr, args ...uintptr) string {
		var a [6]uintptr
		copy(a[:], args)
		_, _, errno := unix.RawSyscall6(number, a[0], a[1], a[2], a[3], a[4], a[5])
		if errno == 0 {
			return answer(nil)
		}
		return answer(errno)
	}
	const nowhere = 1 // an address that is never mapped
	socket := func(domain, kind, protocol int) string {
		fd, err := unix.Socket(domain, kind, protocol)
		if err != nil {
			return answer(err)
		}
		unix.Close(fd)
		return answer(nil)
	}
	// unshare and setns: of nothing, which is legal; then of what is not.
	return report{
		"add_key":             try(unix.SYS_ADD_KEY, nowhere, nowhere, 0, 0, 0),
		"bpf":                 try(unix.SYS_BPF, 1<<20, nowhere, 0),
		"chroot":              try(unix.SYS_CHROOT, nowhere),
		"clock_settime":       try(unix.SYS_CLOCK_SETTIME, 1<<20, nowhere),
		"delete_module":       try(unix.SYS_DELETE_MODULE, nowhere, 0),
		"init_module":         try(unix.SYS_INIT_MODULE, nowhere, 0, nowhere),
		"io_uring_setup":      try(unix.SYS_IO_URING_SETUP, 0, nowhere),
		"kexec_load":          try(unix.SYS_KEXEC_LOAD, 0, 1<<20, nowhere, 1<<20),
		"keyctl":              try(unix.SYS_KEYCTL, 1<<20),
		"mount":               try(unix.SYS_MOUNT, nowhere, nowhere, nowhere, 0, nowhere),
		"perf_event_open":     try(unix.SYS_PERF_EVENT_OPEN, nowhere, 0, 0, 0, 0),
		"personality":         try(unix.SYS_PERSONALITY, 0x0040000),
		"pivot_root":          try(unix.SYS_PIVOT_ROOT, nowhere, nowhere),
		"process_vm_readv":    try(unix.SYS_PROCESS_VM_READV, 1<<22, 0, 0, 0, 0, 1),
		"ptrace":              try(unix.SYS_PTRACE, 1<<20, 0, 0, 0),
		"quotactl":            try(unix.SYS_QUOTACTL, 1<<20, 0, 0, 0),
		"reboot":              try(unix.SYS_REBOOT, 0, 0, 0, 0),
		"setdomainname":       try(unix.SYS_SETDOMAINNAME, nowhere, 1),
		"sethostname":         try(unix.SYS_SETHOSTNAME, nowhere, 1),
		"setns":               try(unix.SYS_SETNS, ^uintptr(0), 0),
		"swapoff":             try(unix.SYS_SWAPOFF, nowhere),
		"umount2":             try(unix.SYS_UMOUNT2, nowhere, 0),
		"unshare":             try(unix.SYS_UNSHARE, unix.CLONE_NEWUTS),
		"userfaultfd":         try(unix.SYS_USERFAULTFD, 1<<20),
		"socket raw":          socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP),
		"socket ping":         socket(unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP),
		"socket packet":       socket(unix.AF_PACKET, unix.SOCK_RAW, 0),
		"socket vsock":        socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0),
		"socket netlink":      socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE),
		"socket alg":          socket(unix.AF_ALG, unix.SOCK_SEQPACKET, 0),
		"bind below 1024":     bindLow(),
		"mknod":               try(unix.SYS_MKNOD, nowhere, unix.S_IFCHR, 0x103),
		"chown of a new file": chown(),
	}
}

// bindLow binds a port that needs a capability, or the parameter that lifts it.
func bindLow() string {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return answer(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: 81, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return answer(err)
	}
	return answer(nil)
}

func chown() string {
	f, err := os.CreateTemp("/dev/shm", "probe")
	if err != nil {
		return answer(err)
	}
	defer func() { _ = os.Remove(f.Name()) }() // it is the container's, which ends
	defer f.Close()
	if err := f.Chown(12345, 12345); err != nil {
		return answer(err)
	}
	return answer(nil)
}
