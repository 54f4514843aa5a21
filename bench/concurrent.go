package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
)

// concurrentRow runs "true" in as many containers at once, and again in further rounds where they are few: a percentile of few
// samples says nothing.
func concurrentRow(ctx context.Context, b *bench) ([]Result, error) {
	var results []Result
	for _, c := range []struct{ at, rounds int }{{1, 10}, {5, 4}, {10, 2}, {20, 1}} {
		var took []float64
		var elapsed float64
		for range c.rounds {
			start := time.Now()
			round, err := runAtOnce(ctx, b, c.at)
			if err != nil {
				return nil, fmt.Errorf("%d at once: %w", c.at, err)
			}
			elapsed += time.Since(start).Seconds()
			took = append(took, round...)
		}
		results = append(results, Result{
			Name: fmt.Sprintf("concurrent-%d", c.at),
			What: fmt.Sprintf("runcvm run --rm IMAGE true, image cached, from exec to exit, %d at once; a round begins when the one "+
				"before has ended", c.at),
			Unit: "s", Samples: took,
			Raw: map[string][]float64{
				"p50_s": {percentile(took, 50)}, "p95_s": {percentile(took, 95)}, "runs_per_s": {float64(len(took)) / elapsed},
			},
		})
	}
	return results, nil
}

// runAtOnce starts n containers at once and returns how long each took, in seconds.
func runAtOnce(ctx context.Context, b *bench, n int) ([]float64, error) {
	took := make([]float64, n)
	group, ctx := errgroup.WithContext(ctx)
	for i := range n {
		group.Go(func() error {
			cmd := b.command(ctx, "run", "--rm", imageName, "true")
			cmd.Env = append(cmd.Env, "RUNCVM_BOOT_TIMEOUT=10m") // they wait for each other
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			start := time.Now()
			err := cmd.Run()
			took[i] = time.Since(start).Seconds()
			if err == nil && out.Len() > 0 {
				err = errors.New("not silent")
			}
			if err != nil {
				return fmt.Errorf("runcvm run: %w: %.4000s", err, out.String())
			}
			return nil
		})
	}
	return took, group.Wait()
}

// percentile is the sample that p of 100 do not exceed (the nearest rank).
func percentile(samples []float64, p int) float64 {
	sorted := slices.Sorted(slices.Values(samples))
	return sorted[max((len(sorted)*p+99)/100, 1)-1]
}
