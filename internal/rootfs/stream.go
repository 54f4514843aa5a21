package rootfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/filelock"
	"github.com/runcvm/runcvm/internal/image"
	"github.com/runcvm/runcvm/internal/rootfs/erofs"
	"github.com/runcvm/runcvm/internal/rootfs/tree"
)

// Stream is an image's disk that is built while the layers come in, so that their bytes are read once. Legal order:
// Cache.Stream; ReadLayer for each layer, at the same time if need be; Finish; Commit; Close, always. Unless Commit succeeds
// nothing is left.
type Stream struct {
	c          *Cache
	key        string
	lock, file *os.File
	builder    *erofs.Builder
	budget     *tree.Budget
	layers     []*tree.Layer
	start      time.Time
	committed  bool
}

// Stream begins the disk of an image that has the layers; of img only they count. It returns nil where there is nothing to do:
// the cache has the disk, or another is building it.
func (c *Cache) Stream(ctx context.Context, img image.Image, cacheKey string) (*Stream, error) {
	key := Key(img, cacheKey)
	lock, err := filelock.TryPath(c.path(key + ".lock"))
	if err != nil || lock == nil {
		return nil, err
	}
	s := &Stream{c: c, key: key, lock: lock, budget: tree.NewBudget(c.Limits), layers: make([]*tree.Layer, len(img.Layers)),
		start: time.Now()}
	if there, err := has(c.path(key + diskSuffix)); err != nil || there {
		return nil, errors.Join(err, s.Close())
	}
	s.file, err = c.temp(ctx, func() (*os.File, error) { return os.CreateTemp(c.dir, "build-*"+diskSuffix) }, unix.LOCK_EX)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("image disk: %w", err), s.Close())
	}
	s.builder = erofs.New(s.file)
	return s, nil
}

// ReadLayer reads layer number i, which may be compressed, to its end, verifies what it is uncompressed, and writes its files.
func (s *Stream) ReadLayer(ctx context.Context, i int, diffID digest.Digest, r io.Reader) error {
	plain, err := image.Uncompress(r, diffID)
	if err != nil {
		return err
	}
	defer plain.Close()
	s.layers[i], err = tree.ReadNewLayer(ctx, plain, s.builder.DataWriter(), s.budget)
	return err
}

// Finish puts the layers on top of each other and completes the disk. With an error comes the number of the layer that does
// not fit, if it is one's.
func (s *Stream) Finish(ctx context.Context) (int, error) {
	t := tree.New()
	for i, l := range s.layers {
		if err := t.Apply(ctx, l); err != nil {
			return i, err
		}
	}
	return 0, finish(s.builder, t, uuidOf(s.key))
}

// Commit puts the disk into the cache. It does not wait until the disk is on stable storage, which would take longer than all
// else; see volatile.go.
func (s *Stream) Commit(ctx context.Context) error {
	path := s.c.path(s.key + diskSuffix)
	err := markVolatile(s.file)
	if err == nil {
		err = os.Rename(s.file.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("image disk: %w", err)
	}
	s.committed = true
	if err := syncDir(s.c.dir); err != nil {
		return fmt.Errorf("image disk: %w", err)
	}
	slog.DebugContext(ctx, "Built image disk as its layers came", "path", path, "duration", time.Since(s.start))
	return nil
}

// Close gives up what was not committed.
func (s *Stream) Close() error {
	var errs []error
	if s.file != nil {
		if !s.committed {
			errs = append(errs, os.Remove(s.file.Name()))
		}
		errs = append(errs, s.file.Close())
	}
	return errors.Join(append(errs, filelock.Drop(s.lock))...)
}
