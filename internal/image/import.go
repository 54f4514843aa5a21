package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/filelock"
	"github.com/runcvm/runcvm/internal/image/layer"
	"github.com/runcvm/runcvm/internal/rootfs/tree"
)

// maxJSON bounds an index, a manifest or a configuration, in bytes. Registries take 4 MiB.
const maxJSON = 8 << 20

// Import takes an image from a file or a directory into the store, and returns it. What path is, is found out: an OCI image
// layout or what `docker save` writes (each as a directory or as a tar), a tar of a root file system, or a directory that is
// one. A tar may be compressed by gzip, zstd or xz. An image that has the name already loses it.
//
// With an empty name the image gets the one that the layout or archive gives it, or one made of the path's last part.
// Every digest is verified, and the layers are read as for a disk: an image with a fault is not taken at all.
func (s *Store) Import(ctx context.Context, path, name string) (Image, error) {
	if name != "" {
		full, err := NormalizeName(name)
		if err != nil {
			return Image{}, err
		}
		name = full
	}
	in, err := s.begin(ctx)
	if err != nil {
		return Image{}, err
	}
	defer in.close()
	img, err := in.read(ctx, path, name)
	if err == nil {
		err = in.commit(ctx, img)
	}
	if err != nil {
		return Image{}, fmt.Errorf("import %s: %w", path, err)
	}
	return img, nil
}

// importer collects the blobs of one image in a directory of its own.
type importer struct {
	store *Store
	dir   *os.File // holds a flock, so that nobody takes it for a leftover
}

func (s *Store) begin(ctx context.Context) (*importer, error) {
	lock, err := s.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	s.sweepTmp(ctx)
	path, err := os.MkdirTemp(s.path("tmp"), "import-")
	if err != nil {
		return nil, fmt.Errorf("import: %w", err)
	}
	dir, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("import: %w", err)
	}
	if err := filelock.Wait(ctx, dir, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		dir.Close()
		return nil, fmt.Errorf("import: lock %s: %w", path, err)
	}
	return &importer{store: s, dir: dir}, nil
}

func (in *importer) close() {
	_ = os.RemoveAll(in.dir.Name()) // what can't be removed now is swept by the next import
	in.dir.Close()
}

func (in *importer) blobPath(d digest.Digest) string {
	return filepath.Join(in.dir.Name(), d.Encoded())
}

// addBlob writes r's bytes as a blob and returns its digest and size in bytes.
func (in *importer) addBlob(ctx context.Context, r io.Reader) (digest.Digest, int64, error) {
	f, err := os.CreateTemp(in.dir.Name(), "blob-")
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	h := digest.SHA256.Digester()
	buf := make([]byte, 1<<20)
	size, err := io.CopyBuffer(io.MultiWriter(onlyWriter{f}, h.Hash()), ctxReader{ctx, r}, buf)
	if err != nil {
		return "", 0, err
	}
	if err := f.Sync(); err != nil {
		return "", 0, err
	}
	return h.Digest(), size, os.Rename(f.Name(), in.blobPath(h.Digest()))
}

// onlyWriter hides ReadFrom.
type onlyWriter struct{ io.Writer }

// ctxReader ends with its context.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (c ctxReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// boundedReader ends with its context, and with tree.ErrLimit.
type boundedReader struct {
	ctxReader
	left, limit int64
}

// bounded returns a reader of what r, a compressed file, unpacks to, as far as the store's limit allows.
func (in *importer) bounded(ctx context.Context, r io.Reader) io.Reader {
	limit := in.store.Limits.WithDefaults().Bytes
	return &boundedReader{ctxReader{ctx, r}, limit, limit}
}

func (b *boundedReader) Read(p []byte) (int, error) {
	n, err := b.ctxReader.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, fmt.Errorf("%w of %d bytes, uncompressed", tree.ErrLimit, b.limit)
	}
	return n, err
}

// addDescribed copies the blob that a descriptor names from a source, and checks digest and size.
func (in *importer) addDescribed(ctx context.Context, src source, d ocispec.Descriptor) error {
	name, err := blobName(d)
	if err != nil {
		return err
	}
	r, err := src.open(name)
	if err != nil {
		return fmt.Errorf("blob %s: %w", d.Digest, err)
	}
	defer r.Close()
	// One byte more than promised is enough to see that it is too long.
	got, size, err := in.addBlob(ctx, io.LimitReader(r, d.Size+1))
	if err != nil {
		return fmt.Errorf("blob %s in %s: %w", d.Digest, src.describe(name), err)
	}
	if size != d.Size {
		return fmt.Errorf("blob %s in %s: has %s bytes, its descriptor says %d", d.Digest, src.describe(name), atLeast(size, d.Size),
			d.Size)
	}
	if got != d.Digest {
		return fmt.Errorf("blob %s in %s: %w: content has %s", d.Digest, src.describe(name), layer.ErrDigest, got)
	}
	return nil
}

func atLeast(size, limit int64) string {
	if size > limit {
		return fmt.Sprintf("more than %d", limit)
	}
	return fmt.Sprint(size)
}

// blobName is the path of a blob in a layout: image-layout.md, "Blobs".
func blobName(d ocispec.Descriptor) (string, error) {
	if err := d.Digest.Validate(); err != nil {
		return "", fmt.Errorf("digest %q: %w", d.Digest, err)
	}
	if d.Digest.Algorithm() != digest.SHA256 {
		return "", fmt.Errorf("digest %s: %w: only sha256 is supported", d.Digest, errdefs.ErrNotImplemented)
	}
	if d.Size < 0 {
		return "", fmt.Errorf("descriptor of %s has a size of %d bytes", d.Digest, d.Size)
	}
	return "blobs/sha256/" + d.Digest.Encoded(), nil
}

// readBlob returns a small blob that was added.
func (in *importer) readBlob(d digest.Digest) ([]byte, error) {
	f, err := os.Open(in.blobPath(d))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxJSON+1))
	if err == nil && len(b) > maxJSON {
		err = fmt.Errorf("%s is larger than %d bytes", d, maxJSON)
	}
	return b, err
}

// check reads every layer as for a disk, so that a fault shows now; layers are read at the same time.
func (in *importer) check(ctx context.Context, layers []Layer, describe func(i int) string) error {
	c := in.store.Checker(len(layers))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, l := range layers {
		g.Go(func() error {
			f, err := os.Open(in.blobPath(l.Digest))
			if err != nil {
				return err
			}
			defer f.Close()
			if err := c.ReadLayer(gctx, i, l.DiffID, f); err != nil {
				return fmt.Errorf("layer %s in %s: %w", l.Digest, describe(i), err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if i, err := c.Finish(ctx); err != nil {
		return fmt.Errorf("layer %s in %s: %w", layers[i].Digest, describe(i), err)
	}
	return nil
}

// Checker reads the layers of an image as for a disk, so that a fault shows: ReadLayer for each, at the same time if need be,
// then Finish.
type Checker struct {
	budget *tree.Budget
	read   []*tree.Layer
}

// Checker returns one for an image with a number of layers.
func (s *Store) Checker(layers int) *Checker {
	return &Checker{budget: tree.NewBudget(s.Limits), read: make([]*tree.Layer, layers)}
}

// ReadLayer reads layer number i, which may be compressed, to its end, and verifies what it is uncompressed.
func (c *Checker) ReadLayer(ctx context.Context, i int, diffID digest.Digest, r io.Reader) error {
	plain, err := Uncompress(r, diffID)
	if err != nil {
		return err
	}
	defer plain.Close()
	c.read[i], err = tree.ReadNewLayer(ctx, plain, nil, c.budget)
	return err
}

// Finish puts the layers on top of each other. With an error comes the number of the layer that does not fit.
func (c *Checker) Finish(ctx context.Context) (int, error) {
	t := tree.New()
	for i, l := range c.read {
		if err := t.Apply(ctx, l); err != nil {
			return i, err
		}
	}
	return 0, nil
}

// newImage makes the record of an image whose blobs were all added.
func newImage(name string, manifest ocispec.Descriptor, config ocispec.Descriptor, c ocispec.Image, layers []Layer) Image {
	img := Image{Name: name, Digest: manifest.Digest, Size: manifest.Size + config.Size, Config: c, Layers: layers,
		Blobs: []digest.Digest{manifest.Digest, config.Digest}, Created: time.Now().UTC()}
	if c.Created != nil {
		img.Created = *c.Created
	}
	for _, l := range layers {
		img.Size += l.Size
		img.Blobs = append(img.Blobs, l.Digest)
	}
	return img
}

// commit makes the image visible: first its blobs, then its name.
func (in *importer) commit(ctx context.Context, img Image) error {
	record, err := json.Marshal(img)
	if err != nil {
		return err
	}
	tmp := filepath.Join(in.dir.Name(), "record")
	if err := writeSynced(tmp, record); err != nil {
		return err
	}
	lock, err := in.store.lock(ctx)
	if err != nil {
		return err
	}
	defer lock.Close()
	for _, d := range img.Blobs {
		to := in.store.blobPath(d)
		if _, err := os.Lstat(to); err == nil {
			continue
		}
		// A layer that an image has twice was moved already.
		if err := os.Rename(in.blobPath(d), to); err != nil {
			return err
		}
	}
	if err := syncDir(in.store.path("blobs", "sha256")); err != nil {
		return err
	}
	if err := os.Rename(tmp, in.store.namePath(img.Name)); err != nil {
		return err
	}
	if err := syncDir(in.store.path("names")); err != nil {
		return err
	}
	// The image is there, whatever becomes of what another may have left.
	if err := in.store.sweepBlobs(ctx); err != nil {
		slog.WarnContext(ctx, "Can't remove blobs that no image uses", "error", err)
	}
	return nil
}

func writeSynced(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}
