package hostcgroup

import (
	"fmt"

	"github.com/opencontainers/cgroups"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

const (
	// maxTasks bounds the threads of monitor, VMM and helpers together. QEMU has up to 64 threads for its disks and one for each
	// processor, Firecracker fewer; a Go program has some 10, and more while its files are slow.
	maxTasks = 1024
	// defaultPeriod is the period of a CPU quota in microseconds, the kernel's default.
	defaultPeriod = 100_000
	// defaultShares are a cgroup's that is given none, the kernel's default.
	defaultShares = 1024
)

// hostResources is what of the container's resources the host holds, without the quota of processor time. The container's devices,
// number of processes, huge pages, and files of cgroup v2 are the guest's alone.
func hostResources(o Options) *cgroups.Resources {
	tasks := int64(maxTasks)
	r := &cgroups.Resources{
		Memory:    o.GuestMemory + o.Overhead.memory(o.GuestMemory),
		PidsLimit: &tasks,
	}
	withoutDevices(r)
	from := o.Resources
	if from == nil {
		return r
	}
	if m := from.Memory; m != nil {
		switch {
		case m.Swap == nil:
		case *m.Swap == -1:
			r.MemorySwap = -1
		case m.Limit != nil && *m.Limit > 0 && *m.Swap >= *m.Limit:
			r.MemorySwap = r.Memory + *m.Swap - *m.Limit
		}
		if m.Reservation != nil && *m.Reservation > 0 {
			r.MemoryReservation = min(*m.Reservation+o.Overhead.memory(o.GuestMemory), r.Memory)
		} else if m.Reservation != nil && *m.Reservation < 0 {
			r.MemoryReservation = -1 // see takeReservation
		}
	}
	if cpu := from.CPU; cpu != nil {
		if cpu.Shares != nil && !idle(cpu) {
			r.CpuShares = *cpu.Shares
			r.CpuWeight = cgroups.ConvertCPUSharesToCgroupV2Value(*cpu.Shares)
		}
		r.CPUIdle = cpu.Idle
		r.CpusetCpus, r.CpusetMems = cpu.Cpus, cpu.Mems
	}
	blockIO(r, from.BlockIO)
	return r
}

// idle says whether processes run only when nobody else wants to: the kernel takes no weight of those.
func idle(c *specs.LinuxCPU) bool { return c.Idle != nil && *c.Idle == 1 }

// withoutDevices leaves devices alone: the VMM needs /dev/kvm and others, and the container's are the guest's. Only both together keep
// systemd's driver of cgroup v1 from freezing the cgroup, the process that asks for it included.
func withoutDevices(r *cgroups.Resources) { r.SkipDevices, r.SkipFreezeOnSet = true, true }

// blockIO takes over the limits of block devices, which are the host's: it is the VMM that reads and writes there.
func blockIO(r *cgroups.Resources, from *specs.LinuxBlockIO) {
	if from == nil {
		return
	}
	if from.Weight != nil {
		r.BlkioWeight = *from.Weight
	}
	if from.LeafWeight != nil {
		r.BlkioLeafWeight = *from.LeafWeight
	}
	for _, d := range from.WeightDevice {
		var weight, leaf uint16
		if d.Weight != nil {
			weight = *d.Weight
		}
		if d.LeafWeight != nil {
			leaf = *d.LeafWeight
		}
		r.BlkioWeightDevice = append(r.BlkioWeightDevice, cgroups.NewWeightDevice(d.Major, d.Minor, weight, leaf))
	}
	r.BlkioThrottleReadBpsDevice = throttles(from.ThrottleReadBpsDevice)
	r.BlkioThrottleWriteBpsDevice = throttles(from.ThrottleWriteBpsDevice)
	r.BlkioThrottleReadIOPSDevice = throttles(from.ThrottleReadIOPSDevice)
	r.BlkioThrottleWriteIOPSDevice = throttles(from.ThrottleWriteIOPSDevice)
}

func throttles(from []specs.LinuxThrottleDevice) []*cgroups.ThrottleDevice {
	var to []*cgroups.ThrottleDevice
	for _, d := range from {
		to = append(to, cgroups.NewThrottleDevice(d.Major, d.Minor, d.Rate))
	}
	return to
}

// takeReservation makes a reservation of -1 one that is taken away with cgroup v2, too. Version 1 has a soft limit, for which -1 is none;
// the manager makes it "max" of memory.low, which would protect all of the memory.
func takeReservation(r *cgroups.Resources) {
	if r.MemoryReservation < 0 {
		r.MemoryReservation, r.Unified = 0, map[string]string{"memory.low": "0"}
	}
}

// quota is the container's quota of processor time with the VMM's margin; nil where the container has none, or takes none away.
func quota(from *specs.LinuxResources) *cgroups.Resources {
	if from == nil || from.CPU == nil || from.CPU.Quota == nil || *from.CPU.Quota == 0 {
		return nil
	}
	r := &cgroups.Resources{CpuQuota: -1, CpuPeriod: defaultPeriod}
	withoutDevices(r)
	if p := from.CPU.Period; p != nil && *p > 0 {
		r.CpuPeriod = *p
	}
	if q := *from.CPU.Quota; q > 0 {
		r.CpuQuota = q + CPUMargin(q, r.CpuPeriod)
		r.CpuBurst = from.CPU.Burst
	}
	return r
}

// keepSupported takes out what the kernel has no controller for, and says so.
func keepSupported(r *cgroups.Resources, has func(controller, v1, v2 string) bool) (notes []string) {
	lacks := func(used bool, controller, v1, v2, what string) bool {
		if !used || has(controller, v1, v2) {
			return false
		}
		notes = append(notes, fmt.Sprintf("%s: the host's kernel has no cgroup controller for it", what))
		return true
	}
	if lacks(r.Memory != 0, "memory", "memory.limit_in_bytes", "memory.max", "the limit of the microVM's memory") {
		r.Memory, r.MemorySwap, r.MemoryReservation = 0, 0, 0
	}
	if lacks(r.MemorySwap != 0, "memory", "memory.memsw.limit_in_bytes", "memory.swap.max", "linux.resources.memory.swap") {
		r.MemorySwap = 0
	}
	if lacks(r.PidsLimit != nil, "pids", "pids.max", "pids.max", "the limit of the VMM's threads") {
		r.PidsLimit = nil
	}
	if lacks(r.CpuShares != 0 || r.CpuWeight != 0, "cpu", "cpu.shares", "cpu.weight", "linux.resources.cpu.shares") {
		r.CpuShares, r.CpuWeight = 0, 0
	}
	if lacks(r.CPUIdle != nil, "cpu", "cpu.idle", "cpu.idle", "linux.resources.cpu.idle") {
		r.CPUIdle = nil
	}
	if lacks(r.CpuQuota != 0, "cpu", "cpu.cfs_quota_us", "cpu.max", "linux.resources.cpu.quota") {
		r.CpuQuota, r.CpuPeriod, r.CpuBurst = 0, 0, nil
	}
	if lacks(r.CpuBurst != nil, "cpu", "cpu.cfs_burst_us", "cpu.max.burst", "linux.resources.cpu.burst") {
		r.CpuBurst = nil
	}
	if lacks(r.CpusetCpus != "" || r.CpusetMems != "", "cpuset", "cpuset.cpus", "cpuset.cpus", "linux.resources.cpu.cpus") {
		r.CpusetCpus, r.CpusetMems = "", ""
	}
	return notes
}
