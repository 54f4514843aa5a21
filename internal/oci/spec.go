package oci

import (
	"math"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/runcvm/runcvm/internal/guestapi"
)

// transformer adds one aspect of a container to the guest's specification.
type transformer func(Container, *specs.Spec)

// guestSpecVersion is the version of the specification that the guest's crun gets: Debian 12's crun 1.8.1 refuses those above
// 1.0, and nothing newer is used.
const guestSpecVersion = "1.0.2"

// chain is applied in this order.
var chain = []transformer{process, root, mounts, namespaces, resources}

// Spec builds the specification that crun gets in the guest. process.args stays empty: the agent fills it from the
// entrypoint file of the container's own disk.
func Spec(c Container) *specs.Spec {
	s := &specs.Spec{Version: guestSpecVersion, Annotations: map[string]string{}, Linux: &specs.Linux{}}
	for _, t := range chain {
		t(c, s)
	}
	return s
}

// defaultCapabilities is Docker's default set (moby, oci/caps/defaults.go), which containerd shares.
var defaultCapabilities = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
	"CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
}

func process(c Container, s *specs.Spec) {
	s.Hostname = c.Hostname
	s.Process = &specs.Process{
		Env: c.Env,
		Cwd: c.Cwd,
		// Inheritable stays empty, as in Docker since CVE-2022-24769.
		Capabilities: &specs.LinuxCapabilities{
			Bounding:  defaultCapabilities,
			Effective: defaultCapabilities,
			Permitted: defaultCapabilities,
		},
	}
	if c.User != "" {
		s.Annotations[guestapi.UserAnnotation] = c.User
	}
}

func root(c Container, s *specs.Spec) {
	// The agent mounts the overlay at the bundle's rootfs.
	s.Root = &specs.Root{Path: "rootfs", Readonly: c.ReadOnly}
	// Docker's lists (moby, oci/defaults.go).
	s.Linux.MaskedPaths = []string{
		"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
	}
	s.Linux.ReadonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
}

func mounts(c Container, s *specs.Spec) {
	s.Mounts = []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts",
			Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"ro", "nosuid", "noexec", "nodev"}},
	}
	for _, t := range c.Tmpfs {
		// Docker's defaults for --tmpfs come first, so that the user's options win.
		options := append([]string{"nosuid", "nodev", "noexec"}, t.Options...)
		s.Mounts = append(s.Mounts, specs.Mount{Destination: t.Path, Type: "tmpfs", Source: "tmpfs", Options: options})
	}
}

func namespaces(_ Container, s *specs.Spec) {
	// The network namespace is the guest's own: the microVM is the container's alone.
	for _, t := range []specs.LinuxNamespaceType{
		specs.PIDNamespace, specs.MountNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.CgroupNamespace,
	} {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: t})
	}
}

// cpuPeriod is the period of a CPU quota in microseconds, the kernel's and Docker's default.
const cpuPeriod = 100_000

func resources(c Container, s *specs.Spec) {
	r := &specs.LinuxResources{Devices: deviceRules()}
	if c.Memory > 0 {
		r.Memory = &specs.LinuxMemory{Limit: &c.Memory}
	}
	if c.CPUs > 0 {
		period, quota := uint64(cpuPeriod), int64(math.Round(c.CPUs*cpuPeriod))
		r.CPU = &specs.LinuxCPU{Period: &period, Quota: &quota}
	}
	s.Linux.Resources = r
}

// deviceRules is Docker's default device cgroup: nothing but mknod and the devices that every container has.
func deviceRules() []specs.LinuxDeviceCgroup {
	rules := []specs.LinuxDeviceCgroup{
		{Allow: false, Access: "rwm"},
		{Allow: true, Type: "c", Access: "m"},
		{Allow: true, Type: "b", Access: "m"},
	}
	const all = -1
	for _, d := range [][2]int64{
		{1, 3}, {1, 5}, {1, 7}, {1, 8}, {1, 9}, // null, zero, full, random, urandom
		{5, 0}, {5, 1}, {5, 2}, {136, all}, // tty, console, ptmx, pts
	} {
		rule := specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: &d[0], Access: "rwm"}
		if d[1] != all {
			rule.Minor = &d[1]
		}
		rules = append(rules, rule)
	}
	return rules
}
