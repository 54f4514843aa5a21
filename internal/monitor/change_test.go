package monitor

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/cgroups"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/runcvm/runcvm/internal/config"
	"github.com/runcvm/runcvm/internal/container"
	"github.com/runcvm/runcvm/internal/guestapi"
	"github.com/runcvm/runcvm/internal/hostcgroup"
	"github.com/runcvm/runcvm/internal/oci"
	"github.com/runcvm/runcvm/internal/sandbox"
)

func TestCheckChange(t *testing.T) {
	vmm := container.VMM{MemoryMiB: 512, CPUs: 2}
	most := largestLimit(vmm.MemoryMiB, vmm.CPUs)
	memory := func(n int64) *specs.LinuxResources {
		return &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &n}}
	}
	cpu := func(c specs.LinuxCPU) *specs.LinuxResources { return &specs.LinuxResources{CPU: &c} }
	short := cpu(specs.LinuxCPU{Quota: new(int64(10_000)), Period: new(uint64(10_000))})
	for name, test := range map[string]struct {
		change *specs.LinuxResources
		// has is what the container has.
		has  *specs.LinuxResources
		says string
		is   func(error) bool
	}{
		"nothing":                  {&specs.LinuxResources{}, nil, "", nil},
		"all that the guest holds": {memory(most), nil, "", nil},
		"no limit":                 {memory(-1), nil, "", nil},
		"a byte more":              {memory(most + 1), nil, "booted with 512 MiB", errdefs.IsOutOfRange},
		"both processors":          {cpu(specs.LinuxCPU{Quota: new(int64(200_000))}), nil, "", nil},
		"more than both":           {cpu(specs.LinuxCPU{Quota: new(int64(200_001))}), nil, "booted with 2 processors", errdefs.IsOutOfRange},
		"more, by its period":      {cpu(specs.LinuxCPU{Quota: new(int64(20_001)), Period: new(uint64(10_000))}), nil, "20000 at most", errdefs.IsOutOfRange},
		"a quota too short":        {cpu(specs.LinuxCPU{Quota: new(int64(999))}), short, "cpu.quota: 999; it is at least 1000", errdefs.IsInvalidArgument},
		"a period too short":       {cpu(specs.LinuxCPU{Period: new(uint64(999))}), nil, "cpu.period: 999; it is from 1000", errdefs.IsInvalidArgument},
		"a period too long":        {cpu(specs.LinuxCPU{Period: new(uint64(1_000_001))}), short, "cpu.period: 1000001; it is from 1000", errdefs.IsInvalidArgument},
		"no quota":                 {cpu(specs.LinuxCPU{Quota: new(int64(-1))}), nil, "", nil},
		"zeros of an engine":       {&specs.LinuxResources{CPU: &specs.LinuxCPU{Idle: new(int64(0)), Burst: new(uint64(0))}, Network: &specs.LinuxNetwork{ClassID: new(uint32(0))}}, nil, "", nil},
		"devices, which stay":      {&specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Access: "rwm"}}}, nil, "", nil},
		"by the period there was":  {cpu(specs.LinuxCPU{Quota: new(int64(20_001))}), short, "20000 at most", errdefs.IsOutOfRange},
		"all of it":                {cpu(specs.LinuxCPU{Quota: new(int64(20_000))}), short, "", nil},
		"a period alone":           {cpu(specs.LinuxCPU{Period: new(uint64(5_000))}), short, "", nil},
		"a shorter one":            {cpu(specs.LinuxCPU{Period: new(uint64(4_999))}), short, "quota 10000 in each linux.resources.cpu.period of 4999", errdefs.IsOutOfRange},
		"a period, no quota":       {cpu(specs.LinuxCPU{Period: new(uint64(10_000))}), nil, "", nil},
		"a burst":                  {cpu(specs.LinuxCPU{Burst: new(uint64(10_000))}), short, "", nil},
		"more than the quota":      {cpu(specs.LinuxCPU{Burst: new(uint64(10_001))}), short, "cpu.burst 10001: it is at most linux.resources.cpu.quota, 10000", errdefs.IsInvalidArgument},
		"a burst, no quota":        {cpu(specs.LinuxCPU{Burst: new(uint64(1))}), nil, "", nil},
		"a quota below the burst":  {cpu(specs.LinuxCPU{Quota: new(int64(9_999))}), cpu(specs.LinuxCPU{Quota: new(int64(20_000)), Burst: new(uint64(10_000))}), "cpu.burst 10000", errdefs.IsInvalidArgument},
		"both":                     {cpu(specs.LinuxCPU{Quota: new(int64(9_999)), Burst: new(uint64(0))}), cpu(specs.LinuxCPU{Quota: new(int64(20_000)), Burst: new(uint64(10_000))}), "", nil},
		"idle":                     {cpu(specs.LinuxCPU{Idle: new(int64(1))}), cpu(specs.LinuxCPU{Shares: new(uint64(2))}), "", nil},
		"idle by half":             {cpu(specs.LinuxCPU{Idle: new(int64(2))}), nil, "cpu.idle 2", errdefs.IsInvalidArgument},
		"a weight of one idle":     {cpu(specs.LinuxCPU{Shares: new(uint64(2))}), cpu(specs.LinuxCPU{Idle: new(int64(1))}), "cpu.shares 2", errdefs.IsInvalidArgument},
		"a weight, not idle":       {cpu(specs.LinuxCPU{Shares: new(uint64(2)), Idle: new(int64(0))}), cpu(specs.LinuxCPU{Idle: new(int64(1))}), "", nil},
		"real time":                {cpu(specs.LinuxCPU{RealtimeRuntime: new(int64(1))}), nil, "cpu.realtimeRuntime", errdefs.IsNotImplemented},
		"files of cgroup v2":       {&specs.LinuxResources{Unified: map[string]string{"memory.max": "1"}}, nil, "unified", errdefs.IsNotImplemented},
	} {
		err := checkChange(test.change, hostcgroup.Merge(test.has, test.change), vmm)
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
	guest := func(has, change *specs.LinuxResources) *guestapi.UpdateRequest {
		return guestChange(change, hostcgroup.Merge(has, change))
	}
	cpu := func(quota int64, period uint64) *specs.LinuxResources {
		return &specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: &quota, Period: &period}}
	}
	got := guest(nil, &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: new(int64(1 << 30)), Reservation: new(int64(-1))},
		CPU:    &specs.LinuxCPU{Shares: new(uint64(1024)), Quota: new(int64(50_000)), Period: new(uint64(100_000))},
		Pids:   &specs.LinuxPids{Limit: new(int64(-1))},
	})
	if got.MemoryLimit != 1<<30 || got.MemoryReservation != -1 || got.CpuQuota != 50_000 || got.CpuPeriod != 100_000 || got.CpuWeight == 0 ||
		got.PidsLimit != -1 {
		t.Errorf("%+v", got)
	}
	if got := guest(nil, &specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: new(uint64(0))}}); got.CpuWeight != 0 {
		t.Errorf("shares of 0 change the weight to %d", got.CpuWeight)
	}
	other := &specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: new(uint64(512)), Burst: new(uint64(5)), Idle: new(int64(1))}}
	if got := guest(other, &specs.LinuxResources{CPU: &specs.LinuxCPU{Burst: new(uint64(0)), Idle: new(int64(0))}}); got.CpuBurst != -1 || got.CpuIdle != -1 ||
		got.CpuWeight != cgroups.ConvertCPUSharesToCgroupV2Value(512) {
		t.Errorf("neither idle nor with a burst any more: %+v", got)
	}
	if got := guest(nil, other); got.CpuBurst != 5 || got.CpuIdle != 1 {
		t.Errorf("idle and with a burst: %+v", got)
	}
	if got := guestChange(other, other); got.CpuIdle != 1 || got.CpuWeight != 0 {
		t.Errorf("what there was of one that is idle: %+v", got)
	}
	for name, test := range map[string]struct {
		has, change *specs.LinuxResources
		quota       int64
		period      uint64
	}{
		"a quota keeps the period":  {cpu(10_000, 20_000), cpu(15_000, 0), 15_000, 20_000},
		"a period keeps the quota":  {cpu(10_000, 20_000), cpu(0, 50_000), 10_000, 50_000},
		"a period without a quota":  {nil, cpu(0, 50_000), -1, 50_000},
		"a quota that is taken":     {cpu(10_000, 20_000), cpu(-1, 0), -1, 20_000},
		"neither":                   {cpu(10_000, 20_000), cpu(0, 0), 0, 0},
		"neither, with other CPUs'": {cpu(10_000, 20_000), &specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "0"}}, 0, 0},
	} {
		if got := guest(test.has, test.change); got.CpuQuota != test.quota || got.CpuPeriod != test.period {
			t.Errorf("%s: %d of %d", name, got.CpuQuota, got.CpuPeriod)
		}
	}
}

func TestChangeable(t *testing.T) {
	for name, test := range map[string]struct {
		state      sandbox.State
		begun, end bool
		want       error
	}{
		"waits for its start":    {sandbox.Created, false, false, nil},
		"is created":             {sandbox.Creating, false, false, errNotRunning},
		"boots":                  {sandbox.Created, true, false, errStarting},
		"has failed to start":    {sandbox.Created, true, true, errNotRunning},
		"ends before its start":  {sandbox.Created, false, true, errNotRunning},
		"has ended":              {sandbox.Stopped, true, true, errNotRunning},
		"its microVM has ended":  {sandbox.Running, true, false, errNotRunning},
		"its paused VM is ended": {sandbox.Paused, true, false, errNotRunning},
	} {
		m := &monitor{over: make(chan struct{}), record: container.Record{State: string(test.state)}}
		s := newBundleServer(m, nil)
		if test.begun {
			close(s.begun)
		}
		if test.end {
			close(m.over)
		}
		if l, err := s.changeable(); l != nil || !errors.Is(err, test.want) {
			t.Errorf("one that %s: %v, %v; want %v", name, l, err, test.want)
		}
		// One that runs can be changed, whatever its record says yet.
		m.life.Store(&life{})
		if l, err := s.changeable(); l == nil || err != nil {
			t.Errorf("one that %s and runs: %v, %v", name, l, err)
		}
	}
}

func TestOneChangeAtATime(t *testing.T) {
	m := &monitor{over: make(chan struct{}), record: container.Record{State: string(sandbox.Created)}}
	s := newBundleServer(m, nil)
	s.changed = &specs.LinuxResources{}
	if err := s.beginChange(t.Context()); err != nil {
		t.Fatal(err)
	}
	impatient, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.change(impatient, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("a change while another one goes on: %v", err)
	}
	if _, err := s.takeChanged(impatient); !errors.Is(err, context.Canceled) {
		t.Errorf("a start while a change goes on: %v", err)
	}
	s.endChange()
	for range 2 {
		if got, err := s.takeChanged(t.Context()); got != s.changed || err != nil {
			t.Errorf("%v, %v", got, err)
		}
	}
}
