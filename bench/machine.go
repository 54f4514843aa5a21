package main

import (
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Machine is where the results hold.
type Machine struct {
	CPU        string  `json:"cpu"`
	Processors int     `json:"processors"`
	MemoryGiB  float64 `json:"memory_gib"`
	Kernel     string  `json:"kernel"`
	// FileSystem is the type of the one that was measured on, as the kernel names its magic number (statfs(2)).
	FileSystem string `json:"file_system"`
	// VMM is the name and version of what ran the guests; Emulated says that they had no hardware virtualization.
	VMM         string `json:"vmm"`
	Emulated    bool   `json:"emulated"`
	GuestKernel string `json:"guest_kernel"`
}

func machine(b *bench) Machine {
	m := Machine{Processors: runtime.NumCPU(), VMM: b.idle.VMM.name(), Emulated: b.idle.VMM.Emulated, GuestKernel: b.idle.Kernel}
	m.CPU = field("/proc/cpuinfo", "model name")
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		m.MemoryGiB = round(float64(info.Totalram) * float64(info.Unit) / (1 << 30))
	}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m.Kernel, _, _ = strings.Cut(unix.ByteSliceToString(u.Release[:]), "-") // what follows is the builder's name for it
	}
	var fs unix.Statfs_t
	if unix.Statfs(b.dir, &fs) == nil {
		m.FileSystem = fileSystem(fs.Type)
	}
	return m
}

func fileSystem(magic int64) string {
	names := map[int64]string{
		unix.EXT4_SUPER_MAGIC: "ext4", unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs",
		unix.TMPFS_MAGIC: "tmpfs", unix.OVERLAYFS_SUPER_MAGIC: "overlay",
	}
	if name, ok := names[magic]; ok {
		return name
	}
	return "0x" + strconv.FormatInt(magic, 16)
}

// field is the value of the first line "NAME : VALUE" of a file of /proc.
func field(path, name string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		key, value, _ := strings.Cut(line, ":")
		if strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func loadAverage() float64 {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(b), " ")
	v, _ := strconv.ParseFloat(first, 64)
	return v
}
