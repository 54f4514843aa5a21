package monitor

import (
	"context"

	"github.com/runcvm/runcvm/internal/rootfs"
)

// source is what a container is made of: an image of the store, or a bundle. One is of one life. Legal order: prepare, then the others.
type source interface {
	// prepare decides what the container is, prep.spec, and makes its image disk and its writable disk.
	prepare(ctx context.Context, undo func(func() error)) error
	// startDisk makes the disk of a start, prep.start, where the host has something for the container at this moment.
	startDisk(ctx context.Context, undo func(func() error)) error
	// further is how processes are run in the container beside its own, which people's exec asks for.
	further() further
}

func newSource(l *life) source {
	if l.req.Bundle != nil {
		return &bundleSource{life: l}
	}
	return &imageSource{life: l}
}

// makeStartDisk makes it of a bundle's root, which may be nil, and of copies.
func (l *life) makeStartDisk(ctx context.Context, root *rootfs.BundleRoot, copies []rootfs.Copy, undo func(func() error)) error {
	cache, err := l.imageDisks()
	if err != nil {
		return err
	}
	if l.prep.start, err = cache.StartDisk(ctx, root, copies); err != nil || l.prep.start == nil {
		return err
	}
	undo(l.prep.start.Close)
	return nil
}
