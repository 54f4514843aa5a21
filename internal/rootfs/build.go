package rootfs

import (
	"context"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sync/errgroup"

	"github.com/runcvm/runcvm/internal/image"
	"github.com/runcvm/runcvm/internal/rootfs/erofs"
	"github.com/runcvm/runcvm/internal/rootfs/tree"
)

// maxReaders bounds how many layers are read at once: each takes some 4 MiB of buffers.
const maxReaders = 8

// buildImage writes an image's disk into f. Layers are read at the same time, each writes its files' contents at once; only
// then they are put on top of each other, and what is hidden gives its space back.
func buildImage(ctx context.Context, store *image.Store, img image.Image, f *os.File, uuid [16]byte, limits tree.Limits) error {
	b := erofs.New(f)
	budget := tree.NewBudget(limits)
	layers := make([]*tree.Layer, len(img.Layers))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(min(runtime.GOMAXPROCS(0), maxReaders))
	for i, l := range img.Layers {
		g.Go(func() error {
			r, err := store.OpenLayer(l)
			if err != nil {
				return err
			}
			defer r.Close()
			if layers[i], err = tree.ReadLayer(gctx, r, b.DataWriter(), budget); err != nil {
				return fmt.Errorf("layer %s: %w", l.Digest, err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	t := tree.New()
	for i, l := range layers {
		if err := t.Apply(ctx, l); err != nil {
			return fmt.Errorf("layer %s: %w", img.Layers[i].Digest, err)
		}
		layers[i] = nil
	}
	return finish(b, t, uuid)
}

// finish gives back the space of what is hidden, and completes the disk.
func finish(b *erofs.Builder, t *tree.Tree, uuid [16]byte) error {
	for _, n := range t.Unused() {
		if err := b.Discard(n.Data); err != nil {
			return fmt.Errorf("free hidden content: %w", err)
		}
	}
	_, err := b.Finish(t.Root(), uuid)
	return err
}
