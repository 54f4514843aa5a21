package main

import (
	"context"
	"time"
)

// bootRow runs "true" in a container, once by runcvm and once by the least that a guest can do, in turn.
func bootRow(ctx context.Context, b *bench) ([]Result, error) {
	base, err := newBaseline(ctx, b, "baseline", "true")
	if err != nil {
		return nil, err
	}
	ours := func() (time.Duration, error) { return b.timeSilent(ctx, "run", "--rm", imageName, "true") }
	a, c, err := pairs(b.pairs, ours, func() (time.Duration, error) { return base.run(ctx) })
	if err != nil {
		return nil, err
	}
	return []Result{{
		Name: "run-true-ratio",
		What: "runcvm run --rm IMAGE true, image cached, from exec to exit / the same VMM, kernel, devices and disks with a " +
			"static C init that loads the same modules, mounts, runs crun once and reboots; the baseline's disk is made before its " +
			"clock starts",
		Unit: "ratio", Goal: new(1.2), Samples: ratios(a, c), Raw: map[string][]float64{"runcvm_s": a, "baseline_s": c},
		Remedy: "beside host-work it is the agent's start, its calls and the streams that are opened beside crun: fewer calls and " +
			"messages before the process would reach the goal",
	}}, nil
}
