package monitor

import (
	"github.com/runcvm/runcvm/internal/config"
	"github.com/runcvm/runcvm/internal/oci"
)

const (
	mebibyte = 1 << 20
	// A guest needs memory beside its container's limit: a fixed part for the kernel, the initramfs, the agent and what is kept for
	// the agent when the container has taken all of its own; and a part that grows with it: the kernel's description of each page,
	// and what it keeps free. docs/architecture.md has the measurements. They hold for both VMMs, which give a guest what it is
	// configured with, and take it from the host only when the guest uses it.
	overheadFixed = 128 * mebibyte
	overheadPart  = 32
	// overheadCPU is the kernel's for each further processor.
	overheadCPU = 1 * mebibyte
)

// guestSize is the memory of a guest in MiB and its number of processors: as the configuration has it, or so that the container can
// use all of its limits.
func guestSize(cfg *config.Config, limits oci.Limits) (memoryMiB int64, cpus int) {
	if cpus = limits.VCPUs(); cpus == 0 {
		cpus = cfg.CPUs
	}
	memory := cfg.Memory
	if limits.Memory > 0 {
		memory = limits.Memory + overheadFixed + limits.Memory/overheadPart + int64(cpus-1)*overheadCPU
	}
	return (memory + mebibyte - 1) / mebibyte, cpus
}

// largestLimit is the largest limit of memory, in bytes, for which a guest of this size is large enough; 0 where it has no room for one.
func largestLimit(memoryMiB int64, cpus int) int64 {
	return max(0, memoryMiB*mebibyte-overheadFixed-int64(cpus-1)*overheadCPU) / (overheadPart + 1) * overheadPart
}

// GuestOf is the memory in bytes of the guest that a request is for, and whether its VMM emulates.
func GuestOf(cfg *config.Config, req *Request) (memory int64, emulated bool, err error) {
	v, err := chooseVMM(cfg)
	mib, _ := guestSize(cfg, req.Options.Limits)
	return mib * mebibyte, v.emulated, err
}
