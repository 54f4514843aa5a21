package hostcgroup

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/opencontainers/cgroups"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestPlacement(t *testing.T) {
	for name, test := range map[string]struct {
		options Options
		want    cgroups.Cgroup
		refused string
	}{
		"a path":                   {Options{ID: "c", Path: "/docker/c"}, cgroups.Cgroup{Path: "/docker/c"}, ""},
		"nothing said":             {Options{ID: "c"}, cgroups.Cgroup{Name: "c"}, ""},
		"systemd":                  {Options{ID: "c", Systemd: true, Path: "s.slice:docker:n"}, scope("s.slice", "docker", "n"), ""},
		"systemd, nothing said":    {Options{ID: "c", Systemd: true}, scope("", "runcvm", "c"), ""},
		"systemd, parts are empty": {Options{ID: "c", Systemd: true, Path: "::n"}, scope("", "", "n"), ""},
		"systemd, a path":          {Options{ID: "c", Systemd: true, Path: "/docker/c"}, cgroups.Cgroup{}, "SLICE:PREFIX:NAME"},
		"systemd, no name":         {Options{ID: "c", Systemd: true, Path: "s.slice:docker:"}, cgroups.Cgroup{}, "SLICE:PREFIX:NAME"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := placement(test.options)
			if test.refused != "" {
				if err == nil || !strings.Contains(err.Error(), test.refused) {
					t.Errorf("error %v", err)
				}
				return
			}
			if err != nil || !reflect.DeepEqual(*got, test.want) {
				t.Errorf("%+v, %v; want %+v", got, err, test.want)
			}
		})
	}
}

func scope(parent, prefix, name string) cgroups.Cgroup {
	return cgroups.Cgroup{Systemd: true, Parent: parent, ScopePrefix: prefix, Name: name}
}

func TestScopeProperties(t *testing.T) {
	for _, test := range []struct {
		key, text, name string
		value           any
	}{
		{"KillSignal", "37", "KillSignal", int32(37)},
		{"TimeoutStopUSec", "uint64 10000000", "TimeoutStopUSec", uint64(10_000_000)},
		{"TimeoutStopSec", "3", "TimeoutStopUSec", uint64(3_000_000)},
		{"TimeoutStopSec", "0.5", "TimeoutStopUSec", uint64(500_000)},
		{"CollectMode", "'inactive-or-failed'", "CollectMode", "inactive-or-failed"},
	} {
		got, err := scopeProperties(map[string]string{propertyAnnotation + test.key: test.text, "other": "x"})
		if err != nil || len(got) != 1 || got[0].Name != test.name || got[0].Value.Value() != test.value {
			t.Errorf("%s %s: %v, %v", test.key, test.text, got, err)
		}
	}
	for key, text := range map[string]string{"KillSignal": "'37", "a/b": "1", "TimeoutStopSec": "'soon'"} {
		if got, err := scopeProperties(map[string]string{propertyAnnotation + key: text}); err == nil {
			t.Errorf("%s %s: %v", key, text, got)
		} else if !strings.Contains(err.Error(), key) {
			t.Errorf("error does not name the annotation: %v", err)
		}
	}
}

const gibibyte = 1 << 30

// all has every kind of resource of a container with 1 GiB and 2.5 processors.
func all() *specs.LinuxResources {
	return &specs.LinuxResources{
		Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}},
		Memory: &specs.LinuxMemory{
			Limit: new(int64(gibibyte)), Swap: new(int64(gibibyte + 512*mebibyte)), Reservation: new(int64(256 * mebibyte)),
			Swappiness: new(uint64(10)), DisableOOMKiller: new(true),
		},
		CPU: &specs.LinuxCPU{
			Shares: new(uint64(512)), Quota: new(int64(250_000)), Period: new(uint64(100_000)), Burst: new(uint64(1000)), Cpus: "0", Mems: "0",
		},
		Pids:           &specs.LinuxPids{Limit: new(int64(7))},
		HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 1}},
		Unified:        map[string]string{"memory.max": "1"},
		BlockIO: &specs.LinuxBlockIO{
			ThrottleReadBpsDevice: []specs.LinuxThrottleDevice{{Rate: 5}},
		},
	}
}

func TestHostResources(t *testing.T) {
	o := Options{Resources: all(), GuestMemory: 2 * gibibyte, Overhead: Overhead{Fixed: 64 * mebibyte, Part: 32}}
	const overhead = 64*mebibyte + 64*mebibyte
	got := hostResources(o)
	if got.Memory != 2*gibibyte+overhead {
		t.Errorf("memory %d", got.Memory)
	}
	if got.MemorySwap != got.Memory+512*mebibyte {
		t.Errorf("memory and swap %d, memory %d", got.MemorySwap, got.Memory)
	}
	if got.MemoryReservation != 256*mebibyte+overhead || got.MemorySwappiness != nil {
		t.Errorf("reservation %d, swappiness %v", got.MemoryReservation, got.MemorySwappiness)
	}
	if got.CpuShares != 512 || got.CpuWeight != cgroups.ConvertCPUSharesToCgroupV2Value(512) || got.CpusetCpus != "0" || got.CpusetMems != "0" {
		t.Errorf("processors: %+v", got)
	}
	if got.CpuQuota != 0 || got.CpuBurst != nil {
		t.Errorf("the quota holds before the boot: %d", got.CpuQuota)
	}
	if *got.PidsLimit != maxTasks || got.OomKillDisable || got.Unified != nil || len(got.Devices) > 0 || len(got.HugetlbLimit) > 0 {
		t.Errorf("the container's own limits are the host's: %+v", got)
	}
	if len(got.BlkioThrottleReadBpsDevice) != 1 || got.BlkioThrottleReadBpsDevice[0].Rate != 5 {
		t.Errorf("block devices: %+v", got.BlkioThrottleReadBpsDevice)
	}

	unreserved := all()
	unreserved.Memory.Reservation = new(int64(-1))
	if r := hostResources(Options{Resources: unreserved}); r.MemoryReservation != -1 {
		t.Errorf("a reservation that is taken away: %d", r.MemoryReservation)
	}
	asleep := all()
	asleep.CPU.Idle = new(int64(1))
	if r := hostResources(Options{Resources: asleep}); *r.CPUIdle != 1 || r.CpuShares != 0 || r.CpuWeight != 0 {
		t.Errorf("one that is idle has a weight: %+v", r)
	}

	none := hostResources(Options{GuestMemory: gibibyte})
	if none.Memory != gibibyte || none.MemorySwap != 0 || none.CpuShares != 0 {
		t.Errorf("without resources: %+v", none)
	}
	unlimited := all()
	unlimited.Memory.Swap = new(int64(-1))
	for _, limit := range []*int64{unlimited.Memory.Limit, nil, new(int64(-1))} {
		unlimited.Memory.Limit = limit
		if r := hostResources(Options{GuestMemory: gibibyte, Resources: unlimited}); r.MemorySwap != -1 {
			t.Errorf("unlimited swap with a limit of %v: %d", limit, r.MemorySwap)
		}
	}
}

func TestTakeReservation(t *testing.T) {
	taken := &cgroups.Resources{MemoryReservation: -1}
	takeReservation(taken)
	if want := (&cgroups.Resources{Unified: map[string]string{"memory.low": "0"}}); !reflect.DeepEqual(taken, want) {
		t.Errorf("%+v", taken)
	}
	kept := &cgroups.Resources{MemoryReservation: 1}
	takeReservation(kept)
	if want := (&cgroups.Resources{MemoryReservation: 1}); !reflect.DeepEqual(kept, want) {
		t.Errorf("%+v", kept)
	}
}

func TestQuota(t *testing.T) {
	with := func(c specs.LinuxCPU) *specs.LinuxResources { return &specs.LinuxResources{CPU: &c} }
	for name, test := range map[string]struct {
		from   *specs.LinuxResources
		quota  int64
		period uint64
	}{
		"none":                  {nil, 0, 0},
		"no processors":         {&specs.LinuxResources{}, 0, 0},
		"shares only":           {with(specs.LinuxCPU{Shares: new(uint64(2))}), 0, 0},
		"2.5, a tenth of it":    {all(), 275_000, 100_000},
		"0.5, a tenth of one":   {with(specs.LinuxCPU{Quota: new(int64(50_000))}), 60_000, 100_000},
		"a short period":        {with(specs.LinuxCPU{Quota: new(int64(1000)), Period: new(uint64(1000))}), 1100, 1000},
		"a limit is taken away": {with(specs.LinuxCPU{Quota: new(int64(-1))}), -1, 100_000},
		"the largest":           {with(specs.LinuxCPU{Quota: new(int64(3_200_000))}), 3_520_000, 100_000},
	} {
		got := quota(test.from)
		if test.quota == 0 {
			if got != nil {
				t.Errorf("%s: %+v", name, got)
			}
		} else if got == nil || got.CpuQuota != test.quota || got.CpuPeriod != test.period {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestKeepSupported(t *testing.T) {
	r := hostResources(Options{GuestMemory: gibibyte, Resources: all()})
	if notes := keepSupported(r, func(string, string, string) bool { return true }); len(notes) > 0 || r.Memory == 0 {
		t.Errorf("a host with all: %v, %+v", notes, r)
	}
	noSwap := func(_, v1, _ string) bool { return v1 != "memory.memsw.limit_in_bytes" }
	if notes := keepSupported(r, noSwap); len(notes) != 1 || !strings.Contains(notes[0], "swap") || r.MemorySwap != 0 || r.Memory == 0 {
		t.Errorf("a host without swap accounting: %v, %+v", notes, r)
	}
	notes := keepSupported(r, func(string, string, string) bool { return false })
	if len(notes) != 4 || r.Memory != 0 || r.PidsLimit != nil || r.CpuShares != 0 || r.CpusetCpus != "" {
		t.Errorf("a host without controllers: %q, %+v", notes, r)
	}
}

func TestMerge(t *testing.T) {
	was := all()
	got := Merge(was, &specs.LinuxResources{
		CPU:     &specs.LinuxCPU{Quota: new(int64(100_000)), Shares: new(uint64(0)), Idle: new(int64(0))},
		Memory:  &specs.LinuxMemory{Reservation: new(int64(mebibyte))},
		Pids:    &specs.LinuxPids{Limit: new(int64(9))},
		BlockIO: &specs.LinuxBlockIO{Weight: new(uint16(0))},
	})
	want := all()
	want.CPU.Quota, want.CPU.Idle, want.Memory.Reservation, want.Pids.Limit = new(int64(100_000)), new(int64(0)), new(int64(mebibyte)), new(int64(9))
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %s", asJSON(t, got))
	}
	if !reflect.DeepEqual(was, all()) {
		t.Error("the update has changed what was before")
	}
	if got := Merge(was, &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: new(int64(0))}}); !reflect.DeepEqual(got, all()) {
		t.Errorf("an engine's 0 changes the number of processes: %s", asJSON(t, got))
	}
	if got := Merge(nil, nil); got == nil {
		t.Error("nothing merged with nothing is nil")
	}
}

func TestBefore(t *testing.T) {
	change := &specs.LinuxResources{
		CPU:    &specs.LinuxCPU{Shares: new(uint64(2)), Quota: new(int64(1000)), Period: new(uint64(1000)), Burst: new(uint64(1)), Idle: new(int64(1))},
		Memory: &specs.LinuxMemory{Limit: new(int64(mebibyte)), Reservation: new(int64(1)), Swap: new(int64(0))},
		Pids:   &specs.LinuxPids{Limit: new(int64(9))},
	}
	was := all()
	was.CPU.Idle = new(int64(0))                                                                                               // there was none
	was.Memory.Swappiness, was.Memory.DisableOOMKiller, was.Devices, was.HugepageLimits, was.Unified = nil, nil, nil, nil, nil // they do not change
	if got := Before(all(), change); !reflect.DeepEqual(got, was) {
		t.Errorf("not what there was: %s", asJSON(t, got))
	}
	if got, want := Before(nil, change), (&specs.LinuxResources{
		CPU:    &specs.LinuxCPU{Shares: new(uint64(1024)), Quota: new(int64(-1)), Period: new(uint64(100_000)), Burst: new(uint64(0)), Idle: new(int64(0))},
		Memory: &specs.LinuxMemory{Limit: new(int64(-1)), Reservation: new(int64(-1))},
		Pids:   &specs.LinuxPids{Limit: new(int64(-1))},
	}); !reflect.DeepEqual(got, want) {
		t.Errorf("the defaults are %s", asJSON(t, got))
	}
}

func TestStateIsJSON(t *testing.T) {
	s := State{Options: Options{ID: "c", Path: "/p/c", Resources: all(), GuestMemory: 1, Overhead: OverheadOf(true)}, Paths: map[string]string{"": "/x"}}
	var back State
	if err := json.Unmarshal([]byte(asJSON(t, s)), &back); err != nil || !reflect.DeepEqual(s, back) {
		t.Errorf("%+v, %v", back, err)
	}
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
