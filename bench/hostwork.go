package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"
)

// startTimeline is what is used of "runcvm timeline --format json".
type startTimeline struct {
	Zero   time.Time `json:"zero"`
	Phases []struct {
		Name  string        `json:"name"`
		Start time.Duration `json:"start_ns"`
		End   time.Duration `json:"end_ns"`
	} `json:"phases"`
}

// hostWorkRow measures what the host does before it tells the VMM to start the guest.
func hostWorkRow(ctx context.Context, b *bench) ([]Result, error) {
	raw := map[string][]float64{}
	var total []float64
	for i := range b.starts + 1 {
		name := fmt.Sprintf("start-%d", i)
		began := time.Now()
		if _, err := b.runcvm(ctx, "run", "--name", name, imageName, "true"); err != nil {
			return nil, err
		}
		t, err := b.timeline(ctx, name)
		if err != nil {
			return nil, err
		}
		if _, err := b.runcvm(ctx, "rm", name); err != nil {
			return nil, err
		}
		if i == 0 {
			continue // warms up
		}
		// The timeline's zero is main's first line: what the kernel and the Go runtime took until there counts too.
		before := milliseconds(t.Zero.Sub(began))
		raw["exec_to_main_ms"] = append(raw["exec_to_main_ms"], before)
		for _, p := range t.Phases {
			if p.Name == instanceStart {
				total = append(total, before+milliseconds(p.Start))
				break
			}
			raw[p.Name+"_from_ms"] = append(raw[p.Name+"_from_ms"], before+milliseconds(p.Start))
			raw[p.Name+"_ms"] = append(raw[p.Name+"_ms"], milliseconds(p.End-p.Start))
		}
	}
	if len(total) != b.starts {
		return nil, fmt.Errorf("%d of %d timelines have %q", len(total), b.starts, instanceStart)
	}
	return []Result{{
		Name: "host-work",
		What: "from the moment before the fork of runcvm run to the moment before InstanceStart is sent, image cached: the command, " +
			"the monitor, the VMM's start and configuration, the kernel and initramfs found, the writable disk made",
		Unit: "ms", Goal: new(30.0), Samples: total, Raw: raw,
		Remedy: "what is left is mostly the start of three programs one after the other, the command, the monitor and the VMM, each some " +
			"milliseconds of a processor: a processor that is free for them, and smaller programs, would reach the goal",
	}}, nil
}

// instanceStart is the timeline's mark just before the VMM is told to start the guest.
const instanceStart = "instance-start"

func (b *bench) timeline(ctx context.Context, name string) (startTimeline, error) {
	text, err := b.runcvm(ctx, "timeline", name, "--format", "json")
	if err != nil {
		return startTimeline{}, err
	}
	var t startTimeline
	if err := json.Unmarshal([]byte(text), &t); err != nil {
		return startTimeline{}, fmt.Errorf("timeline: %w", err)
	}
	return t, nil
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
