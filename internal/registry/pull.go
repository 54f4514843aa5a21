package registry

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/image"
	"github.com/runcvm/runcvm/internal/image/layer"
	"github.com/runcvm/runcvm/internal/rootfs"
)

// maxParallel is how many layers come in at once; Docker has three.
const maxParallel = 4

// Target is where an image goes.
type Target struct {
	// Store takes the image.
	Store *image.Store
	// Disks takes its disk; nil: none is made.
	Disks *rootfs.Cache
	// CacheKey is DiskOptions.CacheKey of a run without settings of its own.
	CacheKey string
}

// Result is what a pull has come to.
type Result struct {
	Image image.Image
	// New says that the image was not there, or another one had its name.
	New bool
}

// Pull brings an image into the store, under its local name, and its disk into the cache. platform is as docker's --platform
// has it; empty stands for the host's. What was pulled of an image stays for the next try.
func (c *Client) Pull(ctx context.Context, to Target, ref Reference, platform string) (Result, error) {
	want := platforms.DefaultSpec()
	want.OS = "linux"
	if platform != "" {
		var err error
		if want, err = platforms.Parse(platform); err != nil {
			return Result{}, fmt.Errorf("platform: %w", err)
		}
	}
	p := &pull{c: c, to: to, ref: ref, want: platforms.Only(want), named: platforms.Format(want), places: c.places(ref)}
	for {
		r, err := p.run(ctx)
		if errors.Is(err, errBadPartial) && !p.again {
			p.again = true
			c.o.Progress.Note(err.Error())
			continue
		}
		if err != nil {
			return Result{}, fmt.Errorf("pull %s: %w", ref, err)
		}
		return r, nil
	}
}

// errBadPartial says that what a former pull had left of a blob was wrong. It is gone now.
var errBadPartial = errors.New("what was left of it by a former pull was damaged, and is thrown away")

// pull is one image on its way.
type pull struct {
	c      *Client
	to     Target
	ref    Reference
	want   platforms.MatchComparer
	named  string // the platform
	places []*place
	again  bool

	ingest *image.Ingest
	sink   sink
}

// sink takes the layers: a disk that is built from them, or a check that one could be.
type sink interface {
	ReadLayer(ctx context.Context, i int, diffID digest.Digest, r io.Reader) error
	Finish(ctx context.Context) (int, error)
}

func (p *pull) run(ctx context.Context) (Result, error) {
	local, err := image.NormalizeName(p.localName())
	if err != nil {
		return Result{}, err
	}
	top, manifest, err := p.find(ctx)
	if err != nil {
		return Result{}, err
	}
	if r, ok, err := p.known(ctx, local, top.desc.Digest, manifest.desc.Digest); err != nil || ok {
		return r, err
	}
	if p.ingest, err = p.to.Store.Ingest(ctx); err != nil {
		return Result{}, err
	}
	defer p.ingest.Close()
	what, err := p.describe(ctx, manifest)
	if err != nil {
		return Result{}, err
	}
	what.Name, what.Source = local, top.desc.Digest
	if err := p.checkSpace(what); err != nil {
		return Result{}, err
	}
	img, err := p.layers(ctx, what)
	return Result{Image: img, New: true}, err
}

// localName is the image's in the store: by digest where that was asked for.
func (p *pull) localName() string {
	r := p.ref
	if r.Digest != "" {
		r.Tag = ""
	}
	return r.String()
}

// find gets the manifest from the first place that has it, which is then the first for the layers too.
func (p *pull) find(ctx context.Context) (top, manifest document, err error) {
	var errs []error
	for i, at := range p.places {
		if top, err = at.manifest(ctx, p.ref.what()); err == nil {
			manifest, err = at.resolve(ctx, top, p.want, p.named)
		}
		if err == nil {
			p.places = p.places[i:]
			return top, manifest, nil
		}
		if ctx.Err() != nil {
			return document{}, document{}, err
		}
		errs = append(errs, err)
		if i+1 < len(p.places) {
			p.c.o.Progress.Note(fmt.Sprintf("mirror: %v; trying %s", err, p.places[i+1].host))
		}
	}
	return document{}, document{}, errors.Join(errs...)
}

// known is a pull of an image that is in the store, under whatever name.
func (p *pull) known(ctx context.Context, local string, source, manifest digest.Digest) (Result, bool, error) {
	have, ok, err := p.to.Store.ByManifest(ctx, manifest)
	if err != nil || !ok || !p.want.Match(have.Config.Platform) {
		return Result{}, false, err
	}
	img, err := p.to.Store.Get(ctx, local)
	isNew := err != nil || img.Digest != manifest || img.Name != local
	if isNew || img.Source != source {
		if img, err = p.to.Store.Tag(ctx, have.Name, local, source); err != nil {
			return Result{}, false, err
		}
	}
	if p.to.Disks != nil && img.CheckPlatform() == nil {
		disk, err := p.to.Disks.ImageDisk(ctx, p.to.Store, img, rootfs.DiskOptions{CacheKey: p.to.CacheKey, Cache: true})
		if err != nil {
			return Result{}, false, err
		}
		if err := disk.Close(); err != nil {
			return Result{}, false, err
		}
	}
	return Result{Image: img, New: isNew}, true, nil
}

// describe parses the manifest, and fetches and parses the configuration.
func (p *pull) describe(ctx context.Context, d document) (image.Pulled, error) {
	m, err := image.ParseManifest(d.body)
	if err == nil {
		err = checkTypes(m)
	}
	if err != nil {
		return image.Pulled{}, fmt.Errorf("manifest %s: %w", d.desc.Digest, err)
	}
	config, err := p.config(ctx, m.Config)
	if err != nil {
		return image.Pulled{}, err
	}
	c, err := image.ParseConfig(config, len(m.Layers))
	if err != nil {
		return image.Pulled{}, fmt.Errorf("configuration %s: %w", m.Config.Digest, err)
	}
	if !p.want.Match(c.Platform) {
		return image.Pulled{}, fmt.Errorf("the image is for %s, not for %s: %w", clean(platforms.Format(c.Platform), 40), p.named,
			errdefs.ErrNotFound)
	}
	if err := errors.Join(p.ingest.Add(ctx, d.desc.Digest, d.body), p.ingest.Add(ctx, m.Config.Digest, config)); err != nil {
		return image.Pulled{}, err
	}
	what := image.Pulled{Manifest: d.desc, Config: m.Config, Image: *c}
	for i, l := range m.Layers {
		what.Layers = append(what.Layers, image.Layer{Digest: l.Digest, DiffID: c.RootFS.DiffIDs[i], MediaType: l.MediaType, Size: l.Size})
	}
	return what, nil
}

// config fetches the configuration, which is a small blob.
func (p *pull) config(ctx context.Context, d ocispec.Descriptor) ([]byte, error) {
	if d.Size > maxManifest {
		return nil, fmt.Errorf("configuration %s is said to have %d bytes, more than the %d that it may have: %w", d.Digest, d.Size,
			maxManifest, errdefs.ErrOutOfRange)
	}
	r := &body{ctx: ctx, places: p.places, desc: d, note: p.c.o.Progress.Note}
	defer func() { _ = r.Close() }() // only read from
	b, err := io.ReadAll(io.LimitReader(r, d.Size+1))
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	if got := digest.FromBytes(b); got != d.Digest {
		return nil, fmt.Errorf("configuration %s: %w: content has %s", d.Digest, layer.ErrDigest, got)
	}
	return b, nil
}

// checkSpace refuses an image for whose layers, as they come, there is no room: better now than after minutes.
func (p *pull) checkSpace(what image.Pulled) error {
	var st unix.Statfs_t
	if err := unix.Statfs(p.to.Store.Dir(), &st); err != nil {
		return fmt.Errorf("free space of %s: %w", p.to.Store.Dir(), err)
	}
	free, need := int64(st.Bavail)*st.Bsize, int64(0)
	for _, l := range what.Layers {
		if need += l.Size - p.to.Store.HasBytes(l.Digest); need > free {
			return fmt.Errorf("its layers need more than the %d MiB that are free in %s: make room, or set data_dir: %w", free>>20,
				p.to.Store.Dir(), errdefs.ErrResourceExhausted)
		}
	}
	return nil
}

// layers gets the layers, and makes the image visible.
func (p *pull) layers(ctx context.Context, what image.Pulled) (_ image.Image, err error) {
	stream, err := p.stream(ctx, what)
	if err != nil {
		return image.Image{}, err
	}
	p.sink = p.to.Store.Checker(len(what.Layers))
	if stream != nil {
		p.sink = stream
		defer func() { err = errors.Join(err, stream.Close()) }()
	}
	if err := p.readLayers(ctx, what.Layers); err != nil {
		return image.Image{}, err
	}
	if i, err := p.sink.Finish(ctx); err != nil {
		return image.Image{}, fmt.Errorf("layer %s: %w", what.Layers[i].Digest, err)
	}
	img, err := p.ingest.Commit(ctx, what)
	if err == nil && stream != nil {
		err = stream.Commit(ctx)
	}
	if err != nil || stream != nil || p.to.Disks == nil || img.CheckPlatform() != nil {
		return img, err
	}
	// Another builds it, or it was there.
	disk, err := p.to.Disks.ImageDisk(ctx, p.to.Store, img, rootfs.DiskOptions{CacheKey: p.to.CacheKey, Cache: true})
	if err != nil {
		return img, err
	}
	return img, disk.Close()
}

// stream begins the disk, where one is wanted and not there.
func (p *pull) stream(ctx context.Context, what image.Pulled) (*rootfs.Stream, error) {
	img := image.Image{Config: what.Image, Layers: what.Layers}
	if p.to.Disks == nil || img.CheckPlatform() != nil {
		return nil, nil //nolint:nilerr // an image for others is only kept
	}
	return p.to.Disks.Stream(ctx, img, p.to.CacheKey)
}

func (p *pull) readLayers(ctx context.Context, layers []image.Layer) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(maxParallel)
	first := map[digest.Digest]chan struct{}{} // closed when the first layer with the blob is there
	for i, l := range layers {
		came, again := first[l.Digest]
		if !again {
			came = make(chan struct{})
			first[l.Digest] = came
		}
		g.Go(func() error {
			if again {
				select {
				case <-came:
				case <-gctx.Done():
					return gctx.Err()
				}
			}
			err := p.layer(gctx, i, l)
			if err == nil && !again {
				close(came)
			}
			return err
		})
	}
	return g.Wait()
}

// layer gets one layer: its bytes go through the digests, the decompression and into the disk on their way to the store.
func (p *pull) layer(ctx context.Context, i int, l image.Layer) (err error) {
	bar := p.c.o.Progress.Layer(l.Digest, l.Size)
	defer func() { bar.Done(err) }()
	desc := ocispec.Descriptor{MediaType: l.MediaType, Digest: l.Digest, Size: l.Size}
	blob, err := p.ingest.Blob(ctx, desc, bar.Waiting)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, blob.Close()) }()
	bar.Have(blob.Have())
	r := blob.Reader(func(offset int64) (io.ReadCloser, error) {
		b := &body{ctx: ctx, places: p.places, desc: desc, note: p.c.o.Progress.Note, at: offset}
		return counted{b, bar}, nil
	})
	ahead := layer.Pipe(r)
	err = p.sink.ReadLayer(ctx, i, l.DiffID, ahead)
	// The rest: padding, or after a fault what tells whether the blob itself is to blame.
	if _, rerr := io.Copy(io.Discard, ahead); rerr != nil {
		err = rerr
	}
	if err = errors.Join(err, ahead.Close()); err == nil {
		return blob.Finish()
	}
	switch {
	case errors.Is(err, layer.ErrDigest) && blob.Resumed():
		err = errors.Join(errBadPartial, blob.Discard())
	case errors.Is(err, layer.ErrDigest), errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		// What is wrong must not be resumed, and where there is no room it must not take any.
		err = errors.Join(err, blob.Discard())
	}
	return fmt.Errorf("layer %s: %w", l.Digest, err)
}

// counted tells what comes.
type counted struct {
	io.ReadCloser
	bar LayerProgress
}

func (c counted) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.bar.Add(n)
	return n, err
}
