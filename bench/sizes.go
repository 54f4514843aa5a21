package main

import (
	"context"
	"os"
	"path/filepath"
)

const mebibyte = 1 << 20

// sizesRow tells how much of every guest's memory and boot goes into what RunCVM brings.
func sizesRow(_ context.Context, b *bench) ([]Result, error) {
	initramfs, err := b.config.text("boot-source", "initrd_path")
	if err != nil {
		return nil, err
	}
	sizes := []struct {
		name, what, path string
		goal             float64
	}{
		{"agent-size", "the file runcvm-guest", filepath.Join(b.bin, "runcvm-guest"), 8},
		{"initramfs-size", "the file that guests boot from: agent, crun with its libraries, modules", initramfs, 20},
	}
	var results []Result
	for _, s := range sizes {
		info, err := os.Stat(s.path)
		if err != nil {
			return nil, err
		}
		results = append(results, Result{Name: s.name, What: s.what, Unit: "MiB", Goal: new(s.goal),
			Samples: []float64{float64(info.Size()) / mebibyte}})
	}
	return results, nil
}
