package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"time"
)

// execTimes is a line of the baseline's console.
var execTimes = regexp.MustCompile(`baseline: exec ([0-9.]+) s`)

// execRow runs "true" in a running container, by runcvm exec from the host, and by crun exec in a guest where nothing else runs. A
// guest cannot be asked in turn: so a baseline's guest is measured before and after, with half of the samples each.
func execRow(ctx context.Context, b *bench) ([]Result, error) {
	base, err := newBaseline(ctx, b, "baseline-exec", "sleep", "infinity")
	if err != nil {
		return nil, err
	}
	half := (b.execs + 1) / 2
	base.args = fmt.Sprintf("baseline_execs=%d", half+1)
	var crun, ours []float64
	measure := func() error {
		console, _, err := base.boot(ctx)
		if err != nil {
			return err
		}
		found := execTimes.FindAllStringSubmatch(console, -1)
		if len(found) != half+1 {
			return fmt.Errorf("the baseline tells %d times instead of %d", len(found), half+1)
		}
		for _, f := range found[1:] { // the first one does not count
			s, err := strconv.ParseFloat(f[1], 64)
			if err != nil {
				return err
			}
			crun = append(crun, s)
		}
		return nil
	}
	const name = "exec"
	if _, err := b.runcvm(ctx, "run", "-d", "--name", name, imageName, "sleep", "infinity"); err != nil {
		return nil, err
	}
	if err := measure(); err != nil {
		return nil, err
	}
	for i := range 2*half + 1 {
		took, err := b.timeSilent(ctx, "exec", name, "true")
		if err != nil {
			return nil, err
		}
		if i > 0 {
			ours = append(ours, took.Seconds())
		}
	}
	if err := measure(); err != nil {
		return nil, err
	}
	_, err = b.runcvm(ctx, "rm", "-f", name)
	base0 := median(crun)
	samples := make([]float64, len(ours))
	for i, t := range ours {
		samples[i] = t / base0
	}
	return []Result{{
		Name: "exec-ratio",
		What: "runcvm exec CONTAINER true on the host, from exec to exit / the median of crun exec CONTAINER true in a guest of the same " +
			"kernel, devices and disks that does nothing else, timed by the guest's clock, before and after",
		Unit: "ratio", Goal: new(1.3), Samples: samples, Raw: map[string][]float64{"runcvm_s": ours, "crun_s": crun},
		Remedy: "beside crun it is the host's two processes, the agent's calls and two streams: fewer messages to the guest would reach " +
			"the goal",
	}}, err
}

// timeSilent runs a command of runcvm that must say nothing.
func (b *bench) timeSilent(ctx context.Context, args ...string) (time.Duration, error) {
	cmd := b.command(ctx, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	start := time.Now()
	err := cmd.Run()
	took := time.Since(start)
	if err == nil && out.Len() > 0 {
		err = errors.New("not silent")
	}
	if err != nil {
		return 0, fmt.Errorf("runcvm %s: %w: %.4000s", args[0], err, out.String())
	}
	return took, nil
}
