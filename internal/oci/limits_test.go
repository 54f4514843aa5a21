package oci

import (
	"math"
	"slices"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func value[T any](p *T) any {
	if p == nil {
		return nil
	}
	return *p
}

func TestMemoryLimitsAreDockers(t *testing.T) {
	const m = 64 << 20
	for name, c := range map[string]struct {
		limits                   Limits
		limit, swap, reservation any
	}{
		"none":           {Limits{}, nil, nil, nil},
		"memory":         {Limits{Memory: m}, int64(m), int64(2 * m), nil},
		"no swap":        {Limits{Memory: m, MemorySwap: m}, int64(m), int64(m), nil},
		"unlimited swap": {Limits{Memory: m, MemorySwap: -1}, int64(m), nil, nil},
		"reservation":    {Limits{MemoryReservation: m}, nil, nil, int64(m)},
	} {
		got := specOf(t, Options{Limits: c.limits}).Linux.Resources.Memory
		if got == nil {
			got = &specs.LinuxMemory{}
		}
		if value(got.Limit) != c.limit || value(got.Swap) != c.swap || value(got.Reservation) != c.reservation {
			t.Errorf("%s: limit %v, swap %v, reservation %v", name, value(got.Limit), value(got.Swap), value(got.Reservation))
		}
	}
}

func TestProcessorsAndProcesses(t *testing.T) {
	r := specOf(t, Options{Limits: Limits{CPUs: 0.25, CPUShares: 512, Pids: 7}}).Linux.Resources
	if value(r.CPU.Quota) != int64(25000) || value(r.CPU.Period) != uint64(100000) || value(r.CPU.Shares) != uint64(512) || value(r.Pids.Limit) != int64(7) {
		t.Errorf("%+v %+v", r.CPU, r.Pids)
	}
	r = specOf(t, Options{Limits: Limits{CPUPeriod: 50000, CPUQuota: 20000, Pids: -1}}).Linux.Resources
	if value(r.CPU.Quota) != int64(20000) || value(r.CPU.Period) != uint64(50000) || value(r.Pids.Limit) != int64(-1) {
		t.Errorf("%+v %+v", r.CPU, r.Pids)
	}
	if r := specOf(t, Options{}).Linux.Resources; r.CPU != nil || r.Pids != nil || r.Memory != nil {
		t.Errorf("limits that nobody asked for: %+v", r)
	}
	// Which processors of the host they are is the monitor's affair; the guest has its own.
	if r := specOf(t, Options{Limits: Limits{CPUSet: "2-3"}}).Linux.Resources; r.CPU != nil {
		t.Errorf("%+v", r.CPU)
	}
}

func TestProcessorsOfTheHostAreAList(t *testing.T) {
	for text, want := range map[string][]int{"": nil, "0": {0}, "0-2,5": {0, 1, 2, 5}, "3,1,1-2": {1, 2, 3}, " 4 , 6": {4, 6}} {
		if got, err := (Limits{CPUSet: text}).CPUList(); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{",", "a", "1-", "-1", "2-1", "0-1023", "5000", "0--1", "1.5"} {
		if got, err := (Limits{CPUSet: text}).CPUList(); err == nil {
			t.Errorf("%q: %v", text, got)
		}
	}
}

func TestResourceLimitsOfAProcess(t *testing.T) {
	p := specOf(t, Options{Limits: Limits{Ulimits: []string{"nofile=10:20", "core=0", "cpu=5", "memlock=-1"}, OOMScoreAdj: -5}}).Process
	want := []specs.POSIXRlimit{
		{Type: "RLIMIT_NPROC", Soft: math.MaxUint64, Hard: math.MaxUint64}, {Type: "RLIMIT_NOFILE", Soft: 10, Hard: 20}, {Type: "RLIMIT_CORE"},
		{Type: "RLIMIT_CPU", Soft: 5, Hard: 5}, {Type: "RLIMIT_MEMLOCK", Soft: math.MaxUint64, Hard: math.MaxUint64},
	}
	if !slices.Equal(p.Rlimits, want) || value(p.OOMScoreAdj) != -5 {
		t.Errorf("%+v, oom score %v", p.Rlimits, value(p.OOMScoreAdj))
	}
}

func TestLimitsThatMakeNoSenseAreRefused(t *testing.T) {
	for name, l := range map[string]Limits{
		"little memory":      {Memory: 6<<20 - 1},
		"swap alone":         {MemorySwap: 1 << 30},
		"swap below memory":  {Memory: 64 << 20, MemorySwap: 32 << 20},
		"reservation above":  {Memory: 64 << 20, MemoryReservation: 65 << 20},
		"quota and cpus":     {CPUs: 1, CPUQuota: 1000},
		"period and cpus":    {CPUs: 1, CPUPeriod: 1000},
		"too many":           {CPUs: 32.5},
		"too many by quota":  {CPUQuota: 3_300_000},
		"too little":         {CPUs: 0.001},
		"negative":           {CPUs: -1},
		"no number":          {CPUs: math.NaN()},
		"a short period":     {CPUPeriod: 999},
		"a long period":      {CPUPeriod: 1_000_001},
		"shares":             {CPUShares: 300000},
		"processes":          {Pids: -2},
		"more than the most": {Pids: 1 << 40},
		"oom score":          {OOMScoreAdj: -1001},
	} {
		if err := (Options{Limits: l}).Check(); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}
