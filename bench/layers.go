package main

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/image"
	"github.com/runcvm/runcvm/internal/rootfs"
)

// layersRow makes an image disk of two gzip layers that are in the store, against tar -xzf of the same two blobs.
func layersRow(ctx context.Context, b *bench) ([]Result, error) {
	tree, err := b.tree(ctx)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(b.dir, "layers")
	blobs, err := makeLayout(ctx, dir, tree)
	if err != nil {
		return nil, err
	}
	store, err := image.Open(filepath.Join(b.dir, "layers-store"))
	if err != nil {
		return nil, err
	}
	img, err := store.Import(ctx, dir, "two-layers")
	if err != nil {
		return nil, err
	}
	var results []Result
	for _, sync := range []bool{true, false} {
		disk := func() (time.Duration, error) { return timeImageDisk(ctx, b.dir, store, img, sync) }
		tar := func() (time.Duration, error) { return timeTar(ctx, b.dir, blobs, sync) }
		x, y, err := pairs(b.builds, disk, tar)
		if err != nil {
			return nil, err
		}
		r := Result{Name: "layers-ratio", Unit: "ratio", Goal: new(1.0), Samples: ratios(x, y),
			Raw: map[string][]float64{"disk_s": x, "tar_s": y},
			What: "two gzip layers of the image store to an image disk in the cache, on stable storage (fsync) / tar -xzf of both into a " +
				"fresh directory of the same file system, then syncfs"}
		if !sync {
			r.Name, r.What = "layers-unsynced-ratio", "as layers-ratio, but neither side waits for stable storage"
		}
		results = append(results, r)
	}
	return results, nil
}

// timeImageDisk builds the disk as the first start of an image does (sync), or as a start without the cache does.
func timeImageDisk(ctx context.Context, dir string, store *image.Store, img image.Image, sync bool) (_ time.Duration, err error) {
	path := filepath.Join(dir, "layers-disks")
	cache, err := rootfs.OpenCache(path)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(path)) }()
	if err := syncFS(dir); err != nil {
		return 0, err
	}
	start := time.Now()
	disk, err := cache.ImageDisk(ctx, store, img, rootfs.DiskOptions{Cache: sync})
	took := time.Since(start)
	if err != nil {
		return 0, err
	}
	return took, disk.Close()
}

func timeTar(ctx context.Context, dir string, blobs []string, sync bool) (_ time.Duration, err error) {
	out := filepath.Join(dir, "layers-tar")
	if err := os.Mkdir(out, 0o700); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(out)) }()
	if err := syncFS(dir); err != nil {
		return 0, err
	}
	start := time.Now()
	for _, blob := range blobs {
		if err := command(ctx, "tar", "-xzf", blob, "-C", out); err != nil {
			return 0, err
		}
	}
	if sync {
		err = syncFS(out)
	}
	return time.Since(start), err
}

// syncFS writes back what is dirty on a file system; before a measurement, so that it is not measured.
func syncFS(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return fmt.Errorf("syncfs: %w", err)
	}
	return nil
}

func command(ctx context.Context, name string, args ...string) error {
	if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %.4000s", name, err, out)
	}
	return nil
}

// tree is the test image's files in a directory, unpacked once.
func (b *bench) tree(ctx context.Context) (string, error) {
	dir := filepath.Join(b.dir, "tree")
	if err := os.Mkdir(dir, 0o755); errors.Is(err, os.ErrExist) {
		return dir, nil
	} else if err != nil {
		return "", err
	}
	store, err := image.Open(filepath.Join(b.dataDir(), "images"))
	if err != nil {
		return "", err
	}
	img, err := store.Get(ctx, imageName)
	if err != nil {
		return "", err
	}
	for _, l := range img.Layers {
		r, err := store.OpenLayer(l)
		if err != nil {
			return "", err
		}
		tar := exec.CommandContext(ctx, "tar", "-x", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-C", dir)
		tar.Stdin = r
		out, err := tar.CombinedOutput()
		if err = errors.Join(err, r.Close()); err != nil {
			return "", fmt.Errorf("unpack the test image: %w: %s", err, out)
		}
	}
	return dir, nil
}

// makeLayout writes an OCI layout of two gzip layers: the whole tree, and its /usr/lib again in another place, as a second
// layer that installs something does. It returns the paths of the two blobs.
func makeLayout(ctx context.Context, dir, tree string) ([]string, error) {
	blobDir := filepath.Join(dir, "blobs", "sha256")
	if err := os.MkdirAll(blobDir, 0o755); err != nil {
		return nil, err
	}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	config := ocispec.Image{Platform: ocispec.Platform{Architecture: "amd64", OS: "linux"}, RootFS: ocispec.RootFS{Type: "layers"}}
	var blobs []string
	for _, args := range [][]string{{"."}, {"--transform", "s,^usr/lib,opt/lib,", "usr/lib"}} {
		part := filepath.Join(dir, "part")
		if err := command(ctx, "tar", append([]string{"-czf", part, "--numeric-owner", "-C", tree}, args...)...); err != nil {
			return nil, err
		}
		d, diffID, err := digests(part)
		if err != nil {
			return nil, err
		}
		blob := filepath.Join(blobDir, d.Digest.Encoded())
		if err := os.Rename(part, blob); err != nil {
			return nil, err
		}
		blobs, m.Layers = append(blobs, blob), append(m.Layers, d)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, diffID)
	}
	var err error
	if m.Config, err = writeBlob(blobDir, ocispec.MediaTypeImageConfig, config); err != nil {
		return nil, err
	}
	manifest, err := writeBlob(blobDir, ocispec.MediaTypeImageManifest, m)
	if err != nil {
		return nil, err
	}
	index := ocispec.Index{Versioned: m.Versioned, Manifests: []ocispec.Descriptor{manifest}}
	return blobs, errors.Join(
		writeJSON(filepath.Join(dir, ocispec.ImageIndexFile), index),
		writeJSON(filepath.Join(dir, ocispec.ImageLayoutFile), ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion}))
}

// digests describes a gzip layer, and digests what it unpacks to.
func digests(path string) (ocispec.Descriptor, digest.Digest, error) {
	f, err := os.Open(path)
	if err != nil {
		return ocispec.Descriptor{}, "", err
	}
	defer f.Close()
	packed, plain := digest.Canonical.Digester(), digest.Canonical.Digester()
	z, err := gzip.NewReader(io.TeeReader(f, packed.Hash()))
	if err != nil {
		return ocispec.Descriptor{}, "", err
	}
	if _, err := io.Copy(plain.Hash(), z); err != nil {
		return ocispec.Descriptor{}, "", err
	}
	if _, err := io.Copy(packed.Hash(), f); err != nil { // what gzip did not read of the padding
		return ocispec.Descriptor{}, "", err
	}
	info, err := f.Stat()
	if err != nil {
		return ocispec.Descriptor{}, "", err
	}
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: packed.Digest(), Size: info.Size()}, plain.Digest(), nil
}

func writeBlob(dir, mediaType string, v any) (ocispec.Descriptor, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(text), Size: int64(len(text))}
	return d, os.WriteFile(filepath.Join(dir, d.Digest.Encoded()), text, 0o644)
}

func writeJSON(path string, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o644)
}
