package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/runcvm/runcvm/internal/image/layer"
	"github.com/runcvm/runcvm/internal/rootfs/tree"
)

// dockerImage is an entry of manifest.json in what docker save writes.
type dockerImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// parseDocker parses manifest.json.
func parseDocker(b []byte) ([]dockerImage, error) {
	var images []dockerImage
	if err := json.Unmarshal(b, &images); err != nil {
		return nil, fmt.Errorf("not the manifest of docker save: %w", err)
	}
	if len(images) == 0 || len(images) > maxManifests {
		return nil, fmt.Errorf("it lists %d images, not 1 to %d", len(images), maxManifests)
	}
	for _, img := range images {
		if img.Config == "" {
			return nil, errors.New("it lists an image without a configuration")
		}
	}
	return images, nil
}

// chooseDocker picks the image with the name, or the only one.
func chooseDocker(images []dockerImage, name string) (dockerImage, error) {
	if len(images) == 1 {
		return images[0], nil
	}
	var tags []string
	for _, img := range images {
		for _, tag := range img.RepoTags {
			if full, err := NormalizeName(tag); err == nil && full == name {
				return img, nil
			}
			tags = append(tags, tag)
		}
	}
	return dockerImage{}, fmt.Errorf("there are several images: give the name of one of %s", strings.Join(tags, ", "))
}

// readDocker reads what docker save writes. It has no digests of its layers but the diff_ids.
func (in *importer) readDocker(ctx context.Context, src source, path, name string) (Image, error) {
	b, err := readSmall(src, dockerManifestFile)
	if err != nil {
		return Image{}, err
	}
	images, err := parseDocker(b)
	if err != nil {
		return Image{}, fmt.Errorf("%s: %w", src.describe(dockerManifestFile), err)
	}
	chosen, err := chooseDocker(images, name)
	if err != nil {
		return Image{}, fmt.Errorf("%s: %w", src.describe(dockerManifestFile), err)
	}
	switch {
	case name != "":
	case len(chosen.RepoTags) > 0:
		name, err = NormalizeName(chosen.RepoTags[0])
	default:
		name, err = nameOfPath(path)
	}
	if err != nil {
		return Image{}, err
	}
	config, err := readSmall(src, chosen.Config)
	if err != nil {
		return Image{}, err
	}
	// The configuration's name is its digest, except where a tool made up another.
	if want := digestInName(chosen.Config); want != "" && digest.FromBytes(config) != want {
		return Image{}, fmt.Errorf("configuration %s in %s: %w: content has %s", want, src.describe(chosen.Config), layer.ErrDigest,
			digest.FromBytes(config))
	}
	c, err := parseConfig(config, len(chosen.Layers))
	if err != nil {
		return Image{}, fmt.Errorf("configuration %s: %w", src.describe(chosen.Config), err)
	}
	var layers []Layer
	for i, file := range chosen.Layers {
		l, err := in.addLayer(ctx, src, file)
		if err != nil {
			return Image{}, err
		}
		l.DiffID = c.RootFS.DiffIDs[i]
		layers = append(layers, l)
	}
	if err := in.check(ctx, layers, func(i int) string { return src.describe(chosen.Layers[i]) }); err != nil {
		return Image{}, err
	}
	return in.assemble(ctx, name, config, *c, layers)
}

// digestInName returns the digest that a file of docker save is named after: HEX.json, or blobs/sha256/HEX.
func digestInName(name string) digest.Digest {
	d := digest.NewDigestFromEncoded(digest.SHA256, strings.TrimSuffix(name[strings.LastIndexByte(name, '/')+1:], ".json"))
	if d.Validate() != nil {
		return ""
	}
	return d
}

// addLayer adds a layer of which no digest is known.
func (in *importer) addLayer(ctx context.Context, src source, file string) (Layer, error) {
	r, err := src.open(file)
	if err != nil {
		return Layer{}, err
	}
	defer r.Close()
	d, size, err := in.addBlob(ctx, r)
	if err != nil {
		return Layer{}, fmt.Errorf("%s: %w", src.describe(file), err)
	}
	return Layer{Digest: d, Size: size, MediaType: ocispec.MediaTypeImageLayer}, nil
}

// assemble makes the manifest of an image that came without one.
func (in *importer) assemble(ctx context.Context, name string, config []byte, c ocispec.Image, layers []Layer) (Image, error) {
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(config), Size: int64(len(config))},
		Layers:    []ocispec.Descriptor{},
	}
	for _, l := range layers {
		m.Layers = append(m.Layers, ocispec.Descriptor{MediaType: l.MediaType, Digest: l.Digest, Size: l.Size})
	}
	manifest, err := json.Marshal(m)
	if err != nil {
		return Image{}, err
	}
	for _, b := range [][]byte{config, manifest} {
		if _, _, err := in.addBlob(ctx, bytes.NewReader(b)); err != nil {
			return Image{}, err
		}
	}
	desc := ocispec.Descriptor{Digest: digest.FromBytes(manifest), Size: int64(len(manifest))}
	return newImage(name, desc, m.Config, c, layers), nil
}

// assembleRoot makes an image of one layer and without a command.
func (in *importer) assembleRoot(ctx context.Context, name string, l Layer) (Image, error) {
	c := ocispec.Image{
		Platform: ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH},
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{l.DiffID}},
	}
	config, err := json.Marshal(c)
	if err != nil {
		return Image{}, err
	}
	img, err := in.assemble(ctx, name, config, c, []Layer{l})
	img.Created = time.Now().UTC()
	return img, err
}

// compressedType is the media type of a layer by its compression; there is none for xz, but the store finds that out itself.
var compressedType = map[layer.Compression]string{
	layer.Plain: ocispec.MediaTypeImageLayer,
	layer.Gzip:  ocispec.MediaTypeImageLayerGzip,
	layer.Zstd:  ocispec.MediaTypeImageLayerZstd,
	layer.Xz:    ocispec.MediaTypeImageLayer + "+xz",
}

// readRootTar takes a tar of a root file system for the one layer of an image.
func (in *importer) readRootTar(ctx context.Context, f *os.File, path, name string) (Image, error) {
	if name == "" {
		var err error
		if name, err = nameOfPath(path); err != nil {
			return Image{}, err
		}
	}
	d, size, err := in.addBlob(ctx, f)
	if err != nil {
		return Image{}, err
	}
	l := Layer{Digest: d, Size: size}
	if l.DiffID, l.MediaType, err = in.diffID(ctx, d); err != nil {
		return Image{}, err
	}
	if err := in.check(ctx, []Layer{l}, func(int) string { return path }); err != nil {
		return Image{}, err
	}
	return in.assembleRoot(ctx, name, l)
}

// diffID returns the digest of a blob when it is uncompressed, and its media type.
func (in *importer) diffID(ctx context.Context, d digest.Digest) (digest.Digest, string, error) {
	f, err := os.Open(in.blobPath(d))
	if err != nil {
		return "", "", err
	}
	defer f.Close()
	plain, compression, err := layer.Decompress(f)
	if err != nil {
		return "", "", err
	}
	defer plain.Close()
	ahead := layer.Pipe(plain)
	defer ahead.Close()
	h := digest.SHA256.Digester()
	_, err = io.Copy(h.Hash(), in.bounded(ctx, ahead))
	return h.Digest(), compressedType[compression], err
}

// readRootDir makes an image of a directory that is a root file system.
func (in *importer) readRootDir(ctx context.Context, path, name string) (Image, error) {
	if name == "" {
		var err error
		if name, err = nameOfPath(path); err != nil {
			return Image{}, err
		}
	}
	f, err := os.CreateTemp(in.dir.Name(), "disk-")
	if err != nil {
		return Image{}, err
	}
	defer f.Close()
	if err := tree.WriteDirectory(ctx, path, f); err != nil {
		return Image{}, err
	}
	h := digest.SHA256.Digester()
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return Image{}, err
	}
	size, err := io.Copy(h.Hash(), ctxReader{ctx, f})
	if err != nil {
		return Image{}, err
	}
	d := h.Digest()
	if err := errors.Join(f.Sync(), os.Rename(f.Name(), in.blobPath(d))); err != nil {
		return Image{}, err
	}
	return in.assembleRoot(ctx, name, Layer{Digest: d, DiffID: d, Size: size, MediaType: MediaTypeDisk})
}
