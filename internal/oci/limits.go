package oci

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	units "github.com/docker/go-units"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Limits are what a container may use of memory, processors and processes. A zero field is Docker's default, mostly no limit.
type Limits struct {
	// Memory, MemoryReservation and MemorySwap (memory and swap together; -1 is no limit) are in bytes.
	Memory            int64 `json:"memory,omitempty"`
	MemoryReservation int64 `json:"memory_reservation,omitempty"`
	MemorySwap        int64 `json:"memory_swap,omitempty"`
	// CPUs is the limit in processors, as in 1.5.
	CPUs float64 `json:"cpus,omitempty"`
	// CPUPeriod and CPUQuota are the same limit by its two parts, in microseconds.
	CPUPeriod uint64 `json:"cpu_period,omitempty"`
	CPUQuota  int64  `json:"cpu_quota,omitempty"`
	// CPUShares is a weight among the processes of the guest, from 2 to 262144.
	CPUShares uint64 `json:"cpu_shares,omitempty"`
	// CPUSet lists processors of the host on which the microVM may run ("0-2,4"); it has as many processors.
	CPUSet string `json:"cpuset,omitempty"`
	// Pids is how many processes and threads there may be; -1 is no limit.
	Pids int64 `json:"pids,omitempty"`
	// OOMScoreAdj is the process's oom_score_adj in the guest.
	OOMScoreAdj int `json:"oom_score_adj,omitempty"`
	// ShmSize is the size of /dev/shm in bytes.
	ShmSize int64 `json:"shm_size,omitempty"`
	// Ulimits has entries NAME=SOFT[:HARD].
	Ulimits []string `json:"ulimits,omitempty"`
}

const (
	// leastMemory is the least that a memory limit may be, as in Docker: less does not start a process.
	leastMemory = 6 << 20
	// MaxCPUs is how many processors a guest can have (Firecracker's vcpu_count).
	MaxCPUs = 32
	// leastCPUs is the least share of a processor that a quota can say, 1 ms of 100.
	leastCPUs = 0.01
	// cpuPeriod is the period of a CPU quota in microseconds, the kernel's and Docker's default.
	cpuPeriod = 100_000
	// defaultShmSize is Docker's size of /dev/shm in bytes.
	defaultShmSize = 64 << 20
	// maxPids is the kernel's PID_MAX_LIMIT.
	maxPids = 4 << 20
)

// check lists what is wrong with the limits, each with its flag and what is allowed.
func (l Limits) check() []error {
	f := &faults{}
	l.checkMemory(f)
	l.checkCPUs(f)
	f.unless(l.Pids >= -1 && l.Pids <= maxPids, "--pids-limit %d: a number of processes up to %d, or -1 for no limit", l.Pids, maxPids)
	f.unless(l.OOMScoreAdj >= -1000 && l.OOMScoreAdj <= 1000, "--oom-score-adj %d: from -1000 to 1000", l.OOMScoreAdj)
	f.unless(l.ShmSize >= 0, "--shm-size %d: more than 0", l.ShmSize)
	_, err := l.rlimits()
	return append(f.errs, err)
}

// faults collects what is wrong.
type faults struct{ errs []error }

func (f *faults) unless(ok bool, format string, args ...any) {
	if !ok {
		f.errs = append(f.errs, fmt.Errorf(format, args...))
	}
}

func (l Limits) checkMemory(f *faults) {
	f.unless(l.Memory == 0 || l.Memory >= leastMemory, "--memory %d: at least 6m", l.Memory)
	f.unless(l.MemoryReservation >= 0 && (l.MemoryReservation == 0 || l.Memory == 0 || l.MemoryReservation <= l.Memory),
		"--memory-reservation %d: at most the limit of --memory, %d", l.MemoryReservation, l.Memory)
	f.unless(l.MemorySwap == 0 || l.Memory > 0, "--memory-swap: it is the sum of memory and swap, so --memory must be given too")
	f.unless(l.MemorySwap == 0 || l.MemorySwap == -1 || l.MemorySwap >= l.Memory,
		"--memory-swap %d: it is the sum of memory and swap, so at least the limit of --memory, %d; or -1", l.MemorySwap, l.Memory)
}

func (l Limits) checkCPUs(f *faults) {
	f.unless(l.CPUs == 0 || l.CPUs >= leastCPUs && l.CPUs <= MaxCPUs, "--cpus %g: from %g to %d", l.CPUs, leastCPUs, MaxCPUs)
	f.unless(l.CPUs == 0 || l.CPUPeriod == 0 && l.CPUQuota == 0,
		"--cpus: it says the same as --cpu-period and --cpu-quota; give one or the other")
	f.unless(l.CPUPeriod == 0 || l.CPUPeriod >= 1000 && l.CPUPeriod <= 1_000_000,
		"--cpu-period %d: from 1000 to 1000000 (microseconds)", l.CPUPeriod)
	f.unless(l.CPUQuota == 0 || l.CPUQuota == -1 || l.CPUQuota >= 1000, "--cpu-quota %d: at least 1000 (microseconds)", l.CPUQuota)
	f.unless(l.CPUQuota <= 0 || l.cpus() <= MaxCPUs,
		"--cpu-quota %d: at most %d periods, as many processors as a guest can have", l.CPUQuota, MaxCPUs)
	f.unless(l.CPUShares == 0 || l.CPUShares >= 2 && l.CPUShares <= 262144, "--cpu-shares %d: from 2 to 262144", l.CPUShares)
	if _, err := l.CPUList(); err != nil {
		f.errs = append(f.errs, err)
	}
}

// cpus is the limit in processors, however it was given; 0 is none.
func (l Limits) cpus() float64 {
	if l.CPUQuota > 0 {
		period := l.CPUPeriod
		if period == 0 {
			period = cpuPeriod
		}
		return float64(l.CPUQuota) / float64(period)
	}
	return l.CPUs
}

// VCPUs is how many processors the limits ask for; 0 leaves it to the configuration.
func (l Limits) VCPUs() int {
	if set, err := l.CPUList(); err == nil && len(set) > 0 {
		return len(set)
	}
	return int(math.Ceil(l.cpus()))
}

// CPUList is CPUSet as numbers, ascending; nil where there is none.
func (l Limits) CPUList() ([]int, error) {
	if l.CPUSet == "" {
		return nil, nil
	}
	// The kernel's CPU_SETSIZE.
	const most = 1024
	var set []int
	for part := range strings.SplitSeq(l.CPUSet, ",") {
		from, to, ok := strings.Cut(strings.TrimSpace(part), "-")
		if !ok {
			to = from
		}
		first, err := strconv.Atoi(from)
		last, err2 := strconv.Atoi(to)
		if err != nil || err2 != nil || first < 0 || last < first || last >= most {
			return nil, fmt.Errorf("--cpuset-cpus %q: a list of processors like 0-2,4", l.CPUSet)
		}
		for n := first; n <= last; n++ {
			set = append(set, n)
		}
	}
	slices.Sort(set)
	set = slices.Compact(set)
	if len(set) > MaxCPUs {
		return nil, fmt.Errorf("--cpuset-cpus %q: %d processors; a guest can have %d", l.CPUSet, len(set), MaxCPUs)
	}
	return set, nil
}

// defaultRlimits are what a container gets from a Docker of today, whose services leave systemd's defaults for open files and
// lift the other two.
var defaultRlimits = []specs.POSIXRlimit{
	{Type: "RLIMIT_CORE", Soft: math.MaxUint64, Hard: math.MaxUint64},
	{Type: "RLIMIT_NOFILE", Soft: 1024, Hard: 524288},
	{Type: "RLIMIT_NPROC", Soft: math.MaxUint64, Hard: math.MaxUint64},
}

// rlimits are the process's resource limits: Docker's, and over them the user's.
func (l Limits) rlimits() ([]specs.POSIXRlimit, error) {
	limits := slices.Clone(defaultRlimits)
	var errs []error
	for _, text := range l.Ulimits {
		u, err := units.ParseUlimit(text)
		if err != nil {
			errs = append(errs, fmt.Errorf("--ulimit %q: %w; write NAME=SOFT[:HARD], as in nofile=1024:4096", text, err))
			continue
		}
		r := specs.POSIXRlimit{Type: "RLIMIT_" + strings.ToUpper(u.Name), Soft: uint64(u.Soft), Hard: uint64(u.Hard)}
		limits = slices.DeleteFunc(limits, func(have specs.POSIXRlimit) bool { return have.Type == r.Type })
		limits = append(limits, r)
	}
	return limits, errors.Join(errs...)
}

func resources(c Container, s *specs.Spec) {
	r := &specs.LinuxResources{Devices: deviceRules(c)}
	if m := memoryLimits(c.Limits); m != (specs.LinuxMemory{}) {
		r.Memory = &m
	}
	if cpu := cpuLimits(c.Limits); cpu != (specs.LinuxCPU{}) {
		r.CPU = &cpu
	}
	if c.Pids != 0 {
		r.Pids = &specs.LinuxPids{Limit: &c.Pids}
	}
	s.Linux.Resources = r
	// Parsed by Check before; an entry that is wrong is left out here and refused there.
	s.Process.Rlimits, _ = c.rlimits()
	s.Process.OOMScoreAdj = &c.OOMScoreAdj
}

func memoryLimits(l Limits) specs.LinuxMemory {
	var m specs.LinuxMemory
	if l.Memory > 0 {
		swap := l.MemorySwap
		if swap == 0 {
			swap = 2 * l.Memory // as Docker does; the guest has no swap, so that it is never more than Memory
		}
		m.Limit = &l.Memory
		if swap > 0 {
			m.Swap = &swap
		}
	}
	if l.MemoryReservation > 0 {
		m.Reservation = &l.MemoryReservation
	}
	return m
}

func cpuLimits(l Limits) specs.LinuxCPU {
	var cpu specs.LinuxCPU
	if l.CPUShares > 0 {
		cpu.Shares = &l.CPUShares
	}
	if l.CPUs > 0 {
		period, quota := uint64(cpuPeriod), int64(math.Round(l.CPUs*cpuPeriod))
		cpu.Period, cpu.Quota = &period, &quota
	}
	if l.CPUPeriod > 0 {
		cpu.Period = &l.CPUPeriod
	}
	if l.CPUQuota != 0 {
		cpu.Quota = &l.CPUQuota
	}
	return cpu
}
