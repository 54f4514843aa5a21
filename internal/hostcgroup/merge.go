package hostcgroup

import specs "github.com/opencontainers/runtime-spec/specs-go"

// Merge is what resources are after an update: what is not there stays. Neither argument is changed; either may be nil.
func Merge(was, change *specs.LinuxResources) *specs.LinuxResources {
	merged := &specs.LinuxResources{}
	if was != nil {
		*merged = *was
	}
	if change == nil {
		return merged
	}
	if c := change.CPU; c != nil {
		cpu := specs.LinuxCPU{}
		if merged.CPU != nil {
			cpu = *merged.CPU
		}
		keep(&cpu.Shares, c.Shares)
		keep(&cpu.Quota, c.Quota)
		keep(&cpu.Period, c.Period)
		// Of these two 0 is a value.
		if c.Burst != nil {
			cpu.Burst = c.Burst
		}
		if c.Idle != nil {
			cpu.Idle = c.Idle
		}
		if c.Cpus != "" {
			cpu.Cpus = c.Cpus
		}
		if c.Mems != "" {
			cpu.Mems = c.Mems
		}
		merged.CPU = &cpu
	}
	if m := change.Memory; m != nil {
		memory := specs.LinuxMemory{}
		if merged.Memory != nil {
			memory = *merged.Memory
		}
		keep(&memory.Limit, m.Limit)
		keep(&memory.Reservation, m.Reservation)
		keep(&memory.Swap, m.Swap)
		merged.Memory = &memory
	}
	if change.Pids != nil {
		pids := specs.LinuxPids{}
		if merged.Pids != nil {
			pids = *merged.Pids
		}
		keep(&pids.Limit, change.Pids.Limit)
		merged.Pids = &pids
	}
	if b := change.BlockIO; b != nil {
		block := specs.LinuxBlockIO{}
		if merged.BlockIO != nil {
			block = *merged.BlockIO
		}
		keep(&block.Weight, b.Weight)
		keep(&block.LeafWeight, b.LeafWeight)
		keepList(&block.WeightDevice, b.WeightDevice)
		keepList(&block.ThrottleReadBpsDevice, b.ThrottleReadBpsDevice)
		keepList(&block.ThrottleWriteBpsDevice, b.ThrottleWriteBpsDevice)
		keepList(&block.ThrottleReadIOPSDevice, b.ThrottleReadIOPSDevice)
		keepList(&block.ThrottleWriteIOPSDevice, b.ThrottleWriteIOPSDevice)
		merged.BlockIO = &block
	}
	return merged
}

// Before is what takes a change back: those resources that can change as they were, and the kernel's defaults for what had no value. The
// processors and memory nodes of the host and the limits of block devices have none that could be given again: a change that sets one
// where there was none and then fails leaves it.
func Before(was, change *specs.LinuxResources) *specs.LinuxResources {
	none := &specs.LinuxResources{}
	if c := change.CPU; c != nil {
		none.CPU = &specs.LinuxCPU{}
		reset(&none.CPU.Shares, c.Shares, defaultShares)
		reset(&none.CPU.Period, c.Period, defaultPeriod)
		reset(&none.CPU.Quota, c.Quota, -1)
		if c.Burst != nil {
			none.CPU.Burst = new(uint64(0))
		}
		if c.Idle != nil {
			none.CPU.Idle = new(int64(0))
		}
	}
	if m := change.Memory; m != nil {
		none.Memory = &specs.LinuxMemory{}
		reset(&none.Memory.Limit, m.Limit, -1)
		reset(&none.Memory.Reservation, m.Reservation, -1)
		reset(&none.Memory.Swap, m.Swap, -1)
	}
	if p := change.Pids; p != nil {
		none.Pids = &specs.LinuxPids{}
		reset(&none.Pids.Limit, p.Limit, -1)
	}
	return Merge(none, was)
}

// reset gives what a change sets its default.
func reset[T int64 | uint64](to **T, change *T, without T) {
	if change != nil && *change != 0 {
		*to = &without
	}
}

func keepList[T any](to *[]T, from []T) {
	if len(from) > 0 {
		*to = from
	}
}

// keep takes a new value where there is one. Engines send 0 for what they do not change.
func keep[T int64 | uint64 | uint16](to **T, from *T) {
	if from != nil && *from != 0 {
		*to = from
	}
}
