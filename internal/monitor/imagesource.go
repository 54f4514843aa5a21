package monitor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/runcvm/runcvm/internal/container"
	"github.com/runcvm/runcvm/internal/hostfiles"
	"github.com/runcvm/runcvm/internal/image"
	"github.com/runcvm/runcvm/internal/oci"
	"github.com/runcvm/runcvm/internal/rootfs"
)

// imageSource is an image of the store, and what the user has said beside it.
type imageSource struct {
	*life
	image image.Image
}

func (s *imageSource) prepare(ctx context.Context, undo func(func() error)) error {
	finished := s.timeline.Phase("image")
	store, err := image.Open(filepath.Join(s.cfg.DataDir, "images"))
	if err != nil {
		return err
	}
	s.image, err = s.held(ctx, store)
	if err == nil {
		err = s.image.CheckPlatform()
	}
	finished()
	if err != nil {
		return err
	}
	if s.prep.spec, err = oci.Resolve(s.image.Config.Config, s.req.Options); err != nil {
		return fmt.Errorf("image %s: %w", s.req.Image, err)
	}
	if s.prep.spec.Hostname == "" {
		s.prep.spec.Hostname = container.Short(s.req.ID)
	}
	if s.req.makesNames() {
		s.prep.spec.EtcFiles = hostfiles.Files
	}
	s.update(func(r *container.Record) { r.ImageDigest = s.image.Digest.String() })
	if err := s.containerSettings(); err != nil {
		return err
	}
	if err := s.imageDisk(ctx, store); err != nil {
		return err
	}
	undo(s.prep.disk.Close)
	s.prep.rootfsPath = s.path(container.DiskFile)
	return s.writableDisk(ctx, oci.Spec(s.prep.spec))
}

// held is the image that the container was made of, whatever its name means by now. The container holds it.
func (s *imageSource) held(ctx context.Context, store *image.Store) (image.Image, error) {
	path := s.path(container.ImageFile)
	img, err := image.Held(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return img, err
	}
	if img, err = store.Get(ctx, s.req.Image); err != nil {
		return img, err
	}
	return img, store.Hold(ctx, img, path)
}

func (s *imageSource) imageDisk(ctx context.Context, store *image.Store) error {
	defer s.timeline.Phase("image-disk")()
	cache, err := s.imageDisks()
	if err != nil {
		return err
	}
	s.prep.disk, err = cache.ImageDisk(ctx, store, s.image, rootfs.DiskOptions{CacheKey: s.cfg.CacheKey, Cache: s.cfg.CacheActive})
	return err
}

// startDisk has the files by which the container finds names.
func (s *imageSource) startDisk(ctx context.Context, undo func(func() error)) error {
	copies, err := s.writeNames()
	if err != nil || copies == nil {
		return err
	}
	defer s.timeline.Phase("start-disk")()
	return s.makeStartDisk(ctx, nil, copies, undo)
}

func (s *imageSource) further() further {
	return further{func(e oci.Exec) *specs.Process { return oci.ExecProcess(s.prep.spec, e) }, s.prep.spec.Groups}
}
