package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/runcvm/runcvm/internal/rootfs"
)

// directoryRow makes an image disk of a directory, against cp -a of it. The directory has been read before, by both.
func directoryRow(ctx context.Context, b *bench) ([]Result, error) {
	tree, err := b.tree(ctx)
	if err != nil {
		return nil, err
	}
	timed := func(path string, work func() error) (_ time.Duration, err error) {
		defer func() { err = errors.Join(err, os.RemoveAll(path)) }()
		if err := syncFS(b.dir); err != nil {
			return 0, err
		}
		start := time.Now()
		err = work()
		return time.Since(start), err
	}
	disk, dir := filepath.Join(b.dir, "directory.erofs"), filepath.Join(b.dir, "directory")
	x, y, err := pairs(b.builds,
		func() (time.Duration, error) {
			return timed(disk, func() error {
				_, err := rootfs.BuildDirectory(ctx, tree, disk)
				return err
			})
		},
		func() (time.Duration, error) {
			return timed(dir, func() error { return command(ctx, "cp", "-a", tree, dir) })
		})
	if err != nil {
		return nil, err
	}
	return []Result{{
		Name: "directory-ratio",
		What: "the test image's files in a directory, in the page cache, to an image disk / cp -a of the directory; same file system, " +
			"neither side waits for stable storage",
		Unit: "ratio", Goal: new(0.5), Samples: ratios(x, y), Raw: map[string][]float64{"disk_s": x, "cp_s": y},
	}}, nil
}
