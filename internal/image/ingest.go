package image

import (
	"bytes"
	"context"
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/runcvm/runcvm/internal/image/layer"
)

// Ingest is an image that comes in blob by blob, from a registry. Legal order: Store.Ingest; Add and Blob in any order and by
// any goroutine; Commit, once; Close, always. Unless Commit succeeds no image changes; what came of its layers stays for the
// next try.
type Ingest struct{ in *importer }

// Ingest begins to take in an image.
func (s *Store) Ingest(ctx context.Context) (*Ingest, error) {
	in, err := s.begin(ctx)
	if err != nil {
		return nil, err
	}
	return &Ingest{in}, nil
}

// Close ends it.
func (g *Ingest) Close() { g.in.close() }

// Add takes in a small blob: a manifest or a configuration. The error is layer.ErrDigest when b has another digest.
func (g *Ingest) Add(ctx context.Context, d digest.Digest, b []byte) error {
	got, _, err := g.in.addBlob(ctx, bytes.NewReader(b))
	if err == nil && got != d {
		err = fmt.Errorf("blob %s: %w: content has %s", d, layer.ErrDigest, got)
	}
	return err
}

// Whole says of an image that all of its blobs are in the store.
func (s *Store) Whole(img Image) bool {
	for _, d := range img.Blobs {
		if _, err := os.Lstat(s.blobPath(d)); err != nil {
			return false
		}
	}
	return true
}

// ByManifest returns an image that has the manifest, under whatever name, and is whole.
func (s *Store) ByManifest(ctx context.Context, d digest.Digest) (Image, bool, error) {
	images, err := s.List(ctx)
	if err != nil {
		return Image{}, false, err
	}
	for _, img := range images {
		if img.Digest == d && s.Whole(img) {
			return img, true, nil
		}
	}
	return Image{}, false, nil
}

// Pulled is what a registry said of an image.
type Pulled struct {
	// Name is the image's local one.
	Name string
	// Source is Image.Source.
	Source digest.Digest
	// Manifest describes the manifest, which was added, as was the configuration.
	Manifest ocispec.Descriptor
	// Config is the configuration's descriptor.
	Config ocispec.Descriptor
	// Image is the configuration.
	Image ocispec.Image
	// Layers are the layers, the lowest first.
	Layers []Layer
}

// Commit makes the image visible under its name. Every layer must have come in by a Blob that was finished.
func (g *Ingest) Commit(ctx context.Context, p Pulled) (Image, error) {
	img := newImage(p.Name, p.Manifest, p.Config, p.Image, p.Layers)
	img.Source = p.Source
	if err := g.in.commit(ctx, img); err != nil {
		return Image{}, fmt.Errorf("store image %s: %w", p.Name, err)
	}
	// Its blobs have another name by now.
	for _, l := range p.Layers {
		if err := g.in.store.dropPartial(l.Digest); err != nil {
			return img, fmt.Errorf("store image %s: %w", p.Name, err)
		}
	}
	return img, nil
}

// Tag gives the image another name; an image that has it already loses it. source is the image's Source under that name.
func (s *Store) Tag(ctx context.Context, ref, name string, source digest.Digest) (Image, error) {
	full, err := NormalizeName(name)
	if err != nil {
		return Image{}, err
	}
	in, err := s.begin(ctx)
	if err != nil {
		return Image{}, err
	}
	defer in.close()
	img, err := s.Get(ctx, ref)
	if err != nil {
		return Image{}, err
	}
	img.Name, img.Source = full, source
	// Only blobs that are gone meanwhile would have to come from the importer, which has none.
	if err := in.commit(ctx, img); err != nil {
		return Image{}, fmt.Errorf("name image %s %s: %w", ref, full, err)
	}
	return img, nil
}

// describedBlob checks a descriptor of which a blob is to be made.
func describedBlob(d ocispec.Descriptor, limit int64) error {
	if _, err := blobName(d); err != nil {
		return err
	}
	if d.Size > limit {
		return fmt.Errorf("blob %s is said to have %d bytes, more than the %d that an image may have: %w", d.Digest, d.Size, limit,
			errdefs.ErrOutOfRange)
	}
	return nil
}
