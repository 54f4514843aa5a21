package hostcgroup

// Overhead is the host's memory that a microVM needs beside its guest's.
type Overhead struct {
	// Fixed is the part of monitor and VMM, in bytes.
	Fixed int64 `json:"fixed"`
	// Part is the part that grows with the guest: one Part-th of its memory; 0 is none.
	Part int64 `json:"part"`
}

func (o Overhead) memory(guest int64) int64 {
	if o.Part == 0 {
		return o.Fixed
	}
	return o.Fixed + guest/o.Part
}

const mebibyte = 1 << 20

// OverheadOf is what was measured of the VMMs: docs/architecture.md has the figures.
func OverheadOf(emulated bool) Overhead {
	if emulated {
		return Overhead{Fixed: 256 * mebibyte, Part: 64}
	}
	return Overhead{Fixed: 96 * mebibyte, Part: 64}
}

// CPUMargin is the processor time in microseconds by which a quota of the host is larger than the container's. The guest holds the
// container to its quota exactly; the margin is for what the guest's kernel, the agent and the VMM do for it. Without one, the host would
// stop the guest's processors in the middle of anything.
func CPUMargin(quota int64, period uint64) int64 { return max(quota/10, int64(period/10)) }
