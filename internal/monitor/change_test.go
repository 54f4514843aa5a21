package monitor

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/runcvm/runcvm/internal/config"
	"github.com/runcvm/runcvm/internal/container"
	"github.com/runcvm/runcvm/internal/oci"
)

func TestCheckChange(t *testing.T) {
	vmm := container.VMM{MemoryMiB: 512, CPUs: 2}
	most := largestLimit(vmm.MemoryMiB, vmm.CPUs)
	memory := func(n int64) *specs.LinuxResources {
		return &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &n}}
	}
	cpu := func(c specs.LinuxCPU) *specs.LinuxResources { return &specs.LinuxResources{CPU: &c} }
	for name, test := range map[string]struct {
		change *specs.LinuxResources
		says   string
		is     func(error) bool
	}{
		"nothing":                  {&specs.LinuxResources{}, "", nil},
		"all that the guest holds": {memory(most), "", nil},
		"no limit":                 {memory(-1), "", nil},
		"a byte more":              {memory(most + 1), "booted with 512 MiB", errdefs.IsOutOfRange},
		"both processors":          {cpu(specs.LinuxCPU{Quota: new(int64(200_000))}), "", nil},
		"more than both":           {cpu(specs.LinuxCPU{Quota: new(int64(200_001))}), "booted with 2 processors", errdefs.IsOutOfRange},
		"more, by its period":      {cpu(specs.LinuxCPU{Quota: new(int64(20_001)), Period: new(uint64(10_000))}), "20000 at most", errdefs.IsOutOfRange},
		"no quota":                 {cpu(specs.LinuxCPU{Quota: new(int64(-1))}), "", nil},
		"zeros of an engine":       {&specs.LinuxResources{CPU: &specs.LinuxCPU{Idle: new(int64(0)), Burst: new(uint64(0))}, Network: &specs.LinuxNetwork{ClassID: new(uint32(0))}}, "", nil},
		"devices, which stay":      {&specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Access: "rwm"}}}, "", nil},
		"a period alone":           {cpu(specs.LinuxCPU{Period: new(uint64(10_000))}), "cpu.period", errdefs.IsNotImplemented},
		"a burst":                  {cpu(specs.LinuxCPU{Burst: new(uint64(1))}), "cpu.burst", errdefs.IsNotImplemented},
		"real time":                {cpu(specs.LinuxCPU{RealtimeRuntime: new(int64(1))}), "cpu.realtimeRuntime", errdefs.IsNotImplemented},
		"files of cgroup v2":       {&specs.LinuxResources{Unified: map[string]string{"memory.max": "1"}}, "unified", errdefs.IsNotImplemented},
	} {
		err := checkChange(test.change, vmm)
		if test.says == "" {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
		} else if err == nil || !strings.Contains(err.Error(), test.says) || !test.is(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestLargestLimitIsWhatAGuestIsMadeFor(t *testing.T) {
	for limit := int64(6 << 20); limit < 64<<30; limit = limit*3 + 4097 {
		for _, cpus := range []int{1, 4, 32} {
			mib, _ := guestSize(&config.Config{}, oci.Limits{Memory: limit, CPUs: float64(cpus)})
			if most := largestLimit(mib, cpus); most < limit || most > limit+2*mebibyte {
				t.Errorf("a guest of %d MiB for a limit of %d holds %d", mib, limit, most)
			}
		}
	}
	if most := largestLimit(64, 1); most != 0 {
		t.Errorf("a guest without room holds %d", most)
	}
}

func TestGuestChange(t *testing.T) {
	got := guestChange(&specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: new(int64(1 << 30)), Reservation: new(int64(-1))},
		CPU:    &specs.LinuxCPU{Shares: new(uint64(1024)), Quota: new(int64(50_000)), Period: new(uint64(100_000))},
		Pids:   &specs.LinuxPids{Limit: new(int64(-1))},
	})
	if got.MemoryLimit != 1<<30 || got.MemoryReservation != -1 || got.CpuQuota != 50_000 || got.CpuPeriod != 100_000 || got.CpuWeight == 0 ||
		got.PidsLimit != -1 {
		t.Errorf("%+v", got)
	}
	if got := guestChange(&specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: new(uint64(0))}}); got.CpuWeight != 0 {
		t.Errorf("shares of 0 change the weight to %d", got.CpuWeight)
	}
}
