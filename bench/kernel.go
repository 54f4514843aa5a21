package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
)

// fasterKernel is what "make kernel" builds.
const fasterKernel = "build/kernel"

// kernelRow compares the boots of two kernels, from InstanceStart until the agent has answered.
func kernelRow(ctx context.Context, b *bench) ([]Result, error) {
	r := Result{
		Name: "kernel-boot-ratio",
		What: "from InstanceStart until the agent has answered its first call, by runcvm timeline: the kernel of kernel/config / the " +
			"distribution's, everything else equal",
		Unit: "ratio", Goal: new(0.6),
		Remedy: "what is left is the kernel's own start, which the same VMM, memory and initramfs bring: less built in would " +
			"reach the goal",
	}
	path := os.Getenv("RUNCVM_KERNEL")
	if path == "" {
		path = fasterKernel
	}
	if _, err := os.Stat(path + "/boot"); errors.Is(err, fs.ErrNotExist) {
		r.Skipped = path + " has no kernel: make kernel builds it"
		return []Result{r}, nil
	}
	faster, stock, err := pairs(b.pairs, func() (time.Duration, error) { return b.bootTime(ctx, "--kernel", path) },
		func() (time.Duration, error) { return b.bootTime(ctx) })
	if err != nil {
		return nil, err
	}
	r.Samples, r.Raw = ratios(faster, stock), map[string][]float64{"faster_s": faster, "distribution_s": stock}
	return []Result{r}, nil
}

// bootTime runs a container and reads from its timeline how long the guest took until its agent answered.
func (b *bench) bootTime(ctx context.Context, flags ...string) (time.Duration, error) {
	const name = "boot"
	if _, err := b.runcvm(ctx, append(append([]string{"run", "--name", name}, flags...), imageName, "true")...); err != nil {
		return 0, err
	}
	t, err := b.timeline(ctx, name)
	if err != nil {
		return 0, err
	}
	if _, err := b.runcvm(ctx, "rm", name); err != nil {
		return 0, err
	}
	var start, end time.Duration
	for _, p := range t.Phases {
		switch p.Name {
		case instanceStart:
			start = p.Start
		case "agent":
			end = p.End
		}
	}
	if end <= start {
		return 0, fmt.Errorf("the timeline has no boot: %v", t.Phases)
	}
	return end - start, nil
}
