package monitor

import (
	"github.com/runcvm/runcvm/internal/config"
	"github.com/runcvm/runcvm/internal/oci"
)

const mebibyte = 1 << 20

// guestOverhead is what a guest's kernel and agent need beside the container's limit, in bytes.
const guestOverhead = 128 << 20

// guestSize is the memory of a guest in MiB and its number of processors: as the configuration has it, or so that the container can
// use all of its limits.
func guestSize(cfg *config.Config, limits oci.Limits) (memoryMiB int64, cpus int) {
	memory := cfg.Memory
	if limits.Memory > 0 {
		memory = limits.Memory + guestOverhead
	}
	if cpus = limits.VCPUs(); cpus == 0 {
		cpus = cfg.CPUs
	}
	return (memory + mebibyte - 1) / mebibyte, cpus
}
