package doctor

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/docker/go-units"
	"golang.org/x/sys/unix"
)

// privileges tries what the monitor does first: a process in pid and mount namespaces of its own.
func privileges(ctx context.Context, _ *host) Result {
	const remedy = "run runcvm as root (sudo runcvm ...), in a container with --privileged"
	if os.Geteuid() != 0 {
		return Result{Status: Missing, Detail: fmt.Sprintf("this is user %d, not root", os.Geteuid()), Remedy: remedy}
	}
	self, err := os.Executable()
	if err != nil {
		return Result{Status: Missing, Detail: err.Error(), Remedy: "mount /proc"}
	}
	cmd := exec.CommandContext(ctx, self, "--version")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS}
	if err := cmd.Run(); err != nil {
		return Result{Status: Missing, Detail: "root, but without pid and mount namespaces: " + err.Error(), Remedy: remedy}
	}
	return Result{Status: Found, Detail: "root, with pid and mount namespaces"}
}

const (
	// leastFree is what a start needs on the disk, some MiB, and a little of what it writes, in bytes.
	leastFree = 64 << 20
	// goodFree is room for an image and its disk, in bytes.
	goodFree = 2 << 30
)

func checkDataDir(_ context.Context, h *host) Result {
	return checkDir(h.path(h.cfg.DataDir), "data_dir (RUNCVM_DATA_DIR)", leastFree, goodFree)
}

// checkRunDir notes what a jail there could not do: it holds device files and the VMM's program.
func checkRunDir(_ context.Context, h *host) Result {
	r := checkDir(h.path(h.cfg.RunDir), "run_dir (RUNCVM_RUN_DIR)", 1<<20, 16<<20)
	if r.Status == Missing {
		return r
	}
	var st unix.Statfs_t
	if err := unix.Statfs(existing(h.path(h.cfg.RunDir)), &st); err != nil {
		return r
	}
	var flags []string
	for name, flag := range map[string]int64{"nodev": unix.ST_NODEV, "noexec": unix.ST_NOEXEC} {
		if st.Flags&flag != 0 {
			flags = append(flags, name)
		}
	}
	if len(flags) > 0 {
		// Sockets are all that lies there.
		r.Detail += "; mounted " + strings.Join(flags, ", ") + ", which is fine for sockets, but no place for a jail"
	}
	return r
}

// existing is the path or the nearest of its parents that there is.
func existing(path string) string {
	for path != "/" {
		if _, err := os.Stat(path); err == nil {
			return path
		}
		path = filepath.Dir(path)
	}
	return path
}

func checkDir(path, setting string, least, good uint64) Result {
	dir := existing(path)
	var st unix.Statfs_t
	err := unix.Statfs(dir, &st)
	if err == nil {
		err = unix.Access(dir, unix.W_OK)
	}
	if err == nil && st.Flags&unix.ST_RDONLY != 0 {
		err = unix.EROFS
	}
	if err != nil {
		return Result{Status: Missing, Detail: fmt.Sprintf("%s cannot be written to: %v", dir, err),
			Remedy: "make it writable, or set " + setting}
	}
	free := st.Bavail * uint64(st.Bsize)
	r := Result{Status: Found, Detail: fmt.Sprintf("%s, %s free", path, units.BytesSize(float64(free)))}
	if dir != path {
		r.Detail += ", not made yet"
	}
	const more = "free some (runcvm gc), or set "
	switch {
	case free < least:
		r.Status, r.Remedy = Missing, more+setting
		r.Detail += ", less than the least, " + units.BytesSize(float64(least))
	case free < good:
		r.Status, r.Remedy = Warning, more+setting
		r.Detail += ", which is not much"
	}
	return r
}

func checkMemory(_ context.Context, h *host) Result {
	f, err := os.Open(h.path("/proc/meminfo"))
	if err != nil {
		return Result{Status: Warning, Detail: err.Error(), Remedy: "mount /proc"}
	}
	defer f.Close()
	var free int64
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) > 1 && fields[0] == "MemAvailable:" {
			kib, _ := strconv.ParseInt(fields[1], 10, 64)
			free = kib << 10
		}
	}
	r := Result{Status: Found, Detail: fmt.Sprintf("%s available, a guest without --memory has %s", units.BytesSize(float64(free)),
		units.BytesSize(float64(h.cfg.Memory)))}
	if free < h.cfg.Memory {
		r.Status, r.Remedy = Warning, "set guest.memory (RUNCVM_MEMORY) lower, or run with --memory"
	}
	return r
}

// checkClock looks how the kernel tells time: guests read the processor's counter, and a host that does not trust its own has
// guests whose clocks are slow to read or wrong.
func checkClock(_ context.Context, h *host) Result {
	b, err := os.ReadFile(h.path("/sys/devices/system/clocksource/clocksource0/current_clocksource"))
	if err != nil {
		return Result{Status: Warning, Detail: err.Error(), Remedy: "mount /sys"}
	}
	switch source := strings.TrimSpace(string(b)); source {
	case "tsc", "kvm-clock", "hyperv_clocksource_tsc_page", "xen":
		return Result{Status: Found, Detail: source}
	default:
		return Result{Status: Warning,
			Detail: source + ": the kernel does not trust the processor's counter, so guests' clocks are slow to read",
			Remedy: "boot with clocksource=tsc tsc=reliable, if the machine's hypervisor or firmware allows"}
	}
}

func checkCgroups(_ context.Context, h *host) Result {
	root := h.path("/sys/fs/cgroup")
	var st unix.Statfs_t
	if err := unix.Statfs(root, &st); err != nil {
		return Result{Status: Warning, Detail: err.Error(), Remedy: mountCgroups}
	}
	if st.Type == unix.CGROUP2_SUPER_MAGIC {
		b, err := os.ReadFile(filepath.Join(root, "cgroup.controllers"))
		if err != nil {
			return Result{Status: Warning, Detail: "v2: " + err.Error(), Remedy: mountCgroups}
		}
		return Result{Status: Found, Detail: "v2: " + strings.TrimSpace(string(b))}
	}
	var controllers []string
	entries, _ := os.ReadDir(root)
	for _, e := range entries {
		var st unix.Statfs_t
		if err := unix.Statfs(filepath.Join(root, e.Name()), &st); err == nil && st.Type == unix.CGROUP_SUPER_MAGIC {
			controllers = append(controllers, e.Name())
		}
	}
	switch err := unix.Statfs(filepath.Join(root, "unified"), &st); {
	case len(controllers) == 0:
		return Result{Status: Warning, Detail: "none is mounted at /sys/fs/cgroup", Remedy: mountCgroups}
	case err == nil && st.Type == unix.CGROUP2_SUPER_MAGIC:
		return Result{Status: Found, Detail: "hybrid: v1 with " + strings.Join(controllers, " ") + ", and v2 without controllers"}
	}
	return Result{Status: Found, Detail: "v1: " + strings.Join(controllers, " ")}
}

// Containers' limits are the guest's business: the host's cgroups hold whole microVMs, where an engine wants them to.
const mountCgroups = "not needed by runcvm run; engines want mount -t cgroup2 cgroup2 /sys/fs/cgroup"

func checkTun(_ context.Context, h *host) Result {
	const device = "/dev/net/tun"
	f, err := os.OpenFile(h.path(device), os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return Result{Status: Missing, Detail: "there is no " + device + ", which networks of guests need",
			Remedy: "modprobe tun; mkdir -p /dev/net; mknod " + device + " c 10 200; in a container: --device " + device}
	}
	if err != nil {
		return Result{Status: Missing, Detail: err.Error() + " (networks of guests need it)",
			Remedy: "modprobe tun; in a container: --device " + device}
	}
	f.Close()
	return Result{Status: Found, Detail: device}
}

// checkFuse only looks: the host's own FUSE is for people who mount what guests export; guests bring their own.
func checkFuse(_ context.Context, h *host) Result {
	const device = "/dev/fuse"
	f, err := os.OpenFile(h.path(device), os.O_RDWR, 0)
	if err != nil {
		return Result{Status: Missing, Detail: err.Error(), Remedy: "modprobe fuse; in a container: --device " + device}
	}
	f.Close()
	return Result{Status: Found, Detail: device}
}
