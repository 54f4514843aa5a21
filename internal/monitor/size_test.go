package monitor

import (
	"testing"

	"github.com/runcvm/runcvm/internal/config"
	"github.com/runcvm/runcvm/internal/oci"
)

func TestAGuestIsSizedByItsContainersLimits(t *testing.T) {
	cfg := &config.Config{Memory: 512 << 20, CPUs: 2}
	for name, c := range map[string]struct {
		limits oci.Limits
		memory int64
		cpus   int
	}{
		"no limits":         {oci.Limits{}, 512, 2},
		"memory":            {oci.Limits{Memory: 64 << 20}, 64 + 128 + 2 + 1, 2},
		"much memory":       {oci.Limits{Memory: 16 << 30, CPUs: 4}, 16384 + 128 + 512 + 3, 4},
		"a part of a MiB":   {oci.Limits{Memory: 100<<20 + 1, CPUs: 1}, 232, 1},
		"half a processor":  {oci.Limits{CPUs: 0.5}, 512, 1},
		"one and a half":    {oci.Limits{CPUs: 1.5}, 512, 2},
		"quota":             {oci.Limits{CPUQuota: 250000}, 512, 3},
		"quota of a period": {oci.Limits{CPUQuota: 20000, CPUPeriod: 10000}, 512, 2},
		"processors":        {oci.Limits{CPUSet: "0-2,5", CPUs: 0.5}, 512, 4},
	} {
		if memory, cpus := guestSize(cfg, c.limits); memory != c.memory || cpus != c.cpus {
			t.Errorf("%s: %d MiB and %d processors, want %d and %d", name, memory, cpus, c.memory, c.cpus)
		}
	}
}
