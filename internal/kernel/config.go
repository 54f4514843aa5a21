package kernel

import (
	"bufio"
	"fmt"
	"io"
	"strings"
)

// maxConfig bounds a kernel's configuration, in bytes; a distribution's has 250 KiB.
const maxConfig = 4 << 20

// config is a kernel's configuration: option without CONFIG_ to its value. An option that is not set is missing.
type config map[string]string

func parseConfig(r io.Reader) (config, error) {
	c := config{}
	sc := bufio.NewScanner(io.LimitReader(r, maxConfig))
	for sc.Scan() {
		name, ok := strings.CutPrefix(sc.Text(), "CONFIG_")
		if !ok {
			continue
		}
		if name, value, ok := strings.Cut(name, "="); ok {
			c[name] = value
		}
	}
	if err := sc.Err(); err != nil {
		return nil, err
	}
	if len(c) == 0 {
		return nil, fmt.Errorf("not a kernel configuration: it has no line that begins with CONFIG_")
	}
	return c, nil
}

// requirement is an option that the guest cannot do without.
type requirement struct {
	option string
	// module is the name under which it may come as a module; empty when it must be built in.
	module string
	use    string
}

// requirements is what the boot and containers need; a kernel that lacks one is refused. The modules among them that the boot
// itself needs are in bootModules.
var requirements = []requirement{
	{"64BIT", "", "the agent is a program for x86-64"},
	{"PVH", "", "the VMM's way to enter the kernel"},
	{"ACPI", "", "how the guest finds its devices"},
	{"BLK_DEV_INITRD", "", "the initramfs with the agent"},
	{"TTY", "", "the console"},
	{"SERIAL_8250_CONSOLE", "", "the console, the evidence of a boot that fails"},
	{"BINFMT_ELF", "", "running any program"},
	{"PROC_FS", "", "/proc"},
	{"SYSFS", "", "/sys, where the agent finds the disks"},
	{"DEVTMPFS", "", "/dev in the guest"},
	{"TMPFS", "", "/run and /dev/shm"},
	{"TMPFS_XATTR", "", "extended attributes on tmpfs"},
	{"UNIX98_PTYS", "", "terminals"},
	{"UNIX", "unix", "Unix sockets"},
	{"INET", "", "the network of containers"},
	{"EPOLL", "", "the agent"},
	{"FUTEX", "", "the agent"},
	{"POSIX_TIMERS", "", "the agent's clock"},
	{"VIRTIO_MMIO", "virtio_mmio", "the VMM's devices"},
	{"VIRTIO_BLK", "virtio_blk", "the disks"},
	{"VSOCKETS", "vsock", "the way between host and agent"},
	{"VIRTIO_VSOCKETS", "vmw_vsock_virtio_transport", "the way between host and agent"},
	{"VIRTIO_NET", "virtio_net", "the network of containers"},
	{"HW_RANDOM_VIRTIO", "virtio_rng", "entropy from the host"},
	{"EROFS_FS", "erofs", "the disk of the image"},
	{"EROFS_FS_XATTR", "", "extended attributes (file capabilities) of the image"},
	{"EXT4_FS", "ext4", "the container's writable disk"},
	{"OVERLAY_FS", "overlay", "the container's root file system"},
	{"FUSE_FS", "fuse", "volumes"},
	{"NAMESPACES", "", "containers"},
	{"UTS_NS", "", "a container's host name"},
	{"IPC_NS", "", "a container's IPC namespace"},
	{"PID_NS", "", "a container's process ids"},
	{"NET_NS", "", "a container's network namespace"},
	{"CGROUPS", "", "limits"},
	{"MEMCG", "", "--memory"},
	{"BLK_CGROUP", "", "limits of block devices"},
	{"CGROUP_SCHED", "", "--cpus"},
	{"FAIR_GROUP_SCHED", "", "--cpus"},
	{"CFS_BANDWIDTH", "", "--cpus"},
	{"CGROUP_PIDS", "", "the limit of processes"},
	{"CGROUP_FREEZER", "", "pausing a container"},
	{"CPUSETS", "", "binding to CPUs"},
	{"CGROUP_DEVICE", "", "device rules"},
	{"CGROUP_BPF", "", "device rules on cgroup v2"},
	{"BPF_SYSCALL", "", "device rules on cgroup v2"},
	{"SECCOMP", "", "system call filters"},
	{"SECCOMP_FILTER", "", "system call filters"},
	{"POSIX_MQUEUE", "", "/dev/mqueue"},
	{"SYSVIPC", "", "System V IPC"},
	{"KEYS", "", "a container's session keyring"},
	{"MULTIUSER", "", "users"},
	{"SHMEM", "", "/dev/shm"},
}
