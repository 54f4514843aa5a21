package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// Docker's media types of what the OCI specification took over (distribution, manifest v2 schema 2).
const (
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
)

// maxIndexes bounds how deep indexes may be nested, and maxManifests how many there may be.
const (
	maxIndexes   = 4
	maxManifests = 1000
)

// candidate is an image that a layout offers.
type candidate struct {
	desc ocispec.Descriptor
	// annotations of the entry in index.json that led here.
	annotations map[string]string
}

// readLayout reads an OCI image layout (image-layout.md).
func (in *importer) readLayout(ctx context.Context, src source, path, name string) (Image, error) {
	if err := checkVersion(src); err != nil {
		return Image{}, err
	}
	b, err := readSmall(src, ocispec.ImageIndexFile)
	if err != nil {
		return Image{}, err
	}
	index, err := ParseIndex(b)
	if err != nil {
		return Image{}, fmt.Errorf("%s: %w", src.describe(ocispec.ImageIndexFile), err)
	}
	var all []candidate
	for _, d := range index.Manifests {
		if err := in.candidates(ctx, src, d, d.Annotations, 0, &all); err != nil {
			return Image{}, err
		}
	}
	chosen, err := choose(all, name)
	if err != nil {
		return Image{}, fmt.Errorf("%s: %w", src.describe(ocispec.ImageIndexFile), err)
	}
	if name == "" {
		if name, err = nameOfLayout(chosen.annotations, path); err != nil {
			return Image{}, err
		}
	}
	return in.readManifest(ctx, src, chosen.desc, name)
}

func checkVersion(src source) error {
	b, err := readSmall(src, ocispec.ImageLayoutFile)
	if err != nil {
		return err
	}
	var v ocispec.ImageLayout
	if err := json.Unmarshal(b, &v); err != nil {
		return fmt.Errorf("%s: %w", src.describe(ocispec.ImageLayoutFile), err)
	}
	if !strings.HasPrefix(v.Version, "1.") {
		return fmt.Errorf("%s: layout version %q: %w: only 1.x is supported", src.describe(ocispec.ImageLayoutFile), v.Version,
			errdefs.ErrNotImplemented)
	}
	return nil
}

// ParseIndex parses an image index (image-index.md) or Docker's manifest list.
func ParseIndex(b []byte) (*ocispec.Index, error) {
	var index ocispec.Index
	if err := json.Unmarshal(b, &index); err != nil {
		return nil, fmt.Errorf("not an image index: %w", err)
	}
	if index.SchemaVersion != 2 {
		return nil, fmt.Errorf("image index of schema version %d, not 2", index.SchemaVersion)
	}
	if len(index.Manifests) > maxManifests {
		return nil, fmt.Errorf("image index with %d manifests, more than %d", len(index.Manifests), maxManifests)
	}
	for _, d := range index.Manifests {
		if _, err := blobName(d); err != nil {
			return nil, err
		}
	}
	return &index, nil
}

// candidates collects the images below a descriptor, through nested indexes.
func (in *importer) candidates(ctx context.Context, src source, d ocispec.Descriptor, notes map[string]string, depth int,
	all *[]candidate) error {
	switch d.MediaType {
	case ocispec.MediaTypeImageIndex, dockerList:
		if depth == maxIndexes {
			return fmt.Errorf("image indexes are nested deeper than %d", maxIndexes)
		}
		if err := in.addDescribed(ctx, src, d); err != nil {
			return err
		}
		b, err := in.readBlob(d.Digest)
		if err != nil {
			return err
		}
		index, err := ParseIndex(b)
		if err != nil {
			return fmt.Errorf("index %s: %w", d.Digest, err)
		}
		for _, m := range index.Manifests {
			if err := in.candidates(ctx, src, m, notes, depth+1, all); err != nil {
				return err
			}
		}
		return nil
	case ocispec.MediaTypeImageManifest, dockerManifest, "":
		// BuildKit lists attestations beside images, for a platform that does not exist.
		if d.Platform == nil || d.Platform.OS != "unknown" {
			*all = append(*all, candidate{d, notes})
		}
		if len(*all) > maxManifests {
			return fmt.Errorf("more than %d manifests", maxManifests)
		}
	}
	// What is of another kind, such as a Helm chart, is no image that could be meant.
	return nil
}

// choose picks the image for this host.
func choose(all []candidate, name string) (candidate, error) {
	var fit []candidate
	for _, c := range all {
		if fits(c.desc.Platform) {
			fit = append(fit, c)
		}
	}
	if len(fit) > 1 && name != "" {
		var named []candidate
		for _, c := range fit {
			if full, err := nameOfLayout(c.annotations, ""); err == nil && full == name {
				named = append(named, c)
			}
		}
		if len(named) > 0 {
			fit = named
		}
	}
	for _, c := range fit[min(len(fit), 1):] {
		if c.desc.Digest != fit[0].desc.Digest {
			return candidate{}, fmt.Errorf("there are several images for %s, and no name that tells which: %s", platform(), listed(all))
		}
	}
	if len(fit) > 0 {
		return fit[0], nil
	}
	if len(all) == 0 {
		return candidate{}, errors.New("there is no image")
	}
	return candidate{}, fmt.Errorf("there is no image for %s; there are %s", platform(), listed(all))
}

func platform() string { return "linux/" + runtime.GOARCH }

func fits(p *ocispec.Platform) bool {
	return p == nil || (p.OS == "linux" || p.OS == "") && (p.Architecture == runtime.GOARCH || p.Architecture == "")
}

// listed names images for an error.
func listed(all []candidate) string {
	const most = 20
	var list []string
	for _, c := range all[:min(len(all), most)] {
		text := "an image of no platform"
		if p := c.desc.Platform; p != nil {
			text = strings.TrimSuffix(p.OS+"/"+p.Architecture+"/"+p.Variant, "/")
		}
		if ref := c.annotations[ocispec.AnnotationRefName]; ref != "" {
			text += fmt.Sprintf(" (%s)", ref)
		}
		list = append(list, text)
	}
	if len(all) > most {
		list = append(list, fmt.Sprintf("and %d more", len(all)-most))
	}
	return strings.Join(list, ", ")
}

// tagOnly matches a reference name that is a tag without an image's name, as skopeo, buildah and umoci write it.
var tagOnly = lazily(`^(latest|v?[0-9][A-Za-z0-9._-]*)$`)

// nameOfLayout makes a name of an image's annotations: containerd's full name first, then the specification's, which may be
// a tag only.
func nameOfLayout(annotations map[string]string, path string) (string, error) {
	if full := annotations["io.containerd.image.name"]; full != "" {
		return NormalizeName(full)
	}
	ref := annotations[ocispec.AnnotationRefName]
	if ref != "" && !tagOnly().MatchString(ref) {
		return NormalizeName(ref)
	}
	base, err := nameOfPath(path)
	if err != nil || ref == "" {
		return base, err
	}
	return NormalizeName(strings.TrimSuffix(base, ":latest") + ":" + ref)
}

// ParseManifest parses an image manifest (manifest.md).
func ParseManifest(b []byte) (*ocispec.Manifest, error) {
	var m ocispec.Manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("not an image manifest: %w", err)
	}
	if m.SchemaVersion != 2 {
		return nil, fmt.Errorf("image manifest of schema version %d, not 2", m.SchemaVersion)
	}
	if m.MediaType != "" && m.MediaType != ocispec.MediaTypeImageManifest && m.MediaType != dockerManifest {
		return nil, fmt.Errorf("manifest of type %q: %w", m.MediaType, errdefs.ErrNotImplemented)
	}
	if _, err := blobName(m.Config); err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	for i, l := range m.Layers {
		if _, err := blobName(l); err != nil {
			return nil, fmt.Errorf("layer %d: %w", i, err)
		}
		if strings.HasSuffix(l.MediaType, "+encrypted") || !strings.Contains(l.MediaType, "tar") {
			return nil, fmt.Errorf("layer %s of type %q: %w", l.Digest, l.MediaType, errdefs.ErrNotImplemented)
		}
	}
	return &m, nil
}

// ParseConfig parses an image configuration (config.md), of whatever platform, for a number of layers.
func ParseConfig(b []byte, layers int) (*ocispec.Image, error) {
	var c ocispec.Image
	if err := json.Unmarshal(b, &c); err != nil {
		return nil, fmt.Errorf("not an image configuration: %w", err)
	}
	if len(c.RootFS.DiffIDs) != layers {
		return nil, fmt.Errorf("has %d diff_ids, the manifest has %d layers", len(c.RootFS.DiffIDs), layers)
	}
	for _, d := range c.RootFS.DiffIDs {
		if err := d.Validate(); err != nil {
			return nil, fmt.Errorf("diff_id %q: %w", d, err)
		}
	}
	return &c, nil
}

// parseConfig is ParseConfig for an image of this host's platform.
func parseConfig(b []byte, layers int) (*ocispec.Image, error) {
	c, err := ParseConfig(b, layers)
	if err == nil && !fits(&c.Platform) {
		err = fmt.Errorf("the image is for %s/%s, not for %s", c.OS, c.Architecture, platform())
	}
	return c, err
}

// readManifest reads an image from its manifest on.
func (in *importer) readManifest(ctx context.Context, src source, d ocispec.Descriptor, name string) (Image, error) {
	if err := in.addDescribed(ctx, src, d); err != nil {
		return Image{}, err
	}
	b, err := in.readBlob(d.Digest)
	if err != nil {
		return Image{}, err
	}
	m, err := ParseManifest(b)
	if err != nil {
		return Image{}, fmt.Errorf("manifest %s: %w", d.Digest, err)
	}
	if err := in.addDescribed(ctx, src, m.Config); err != nil {
		return Image{}, fmt.Errorf("configuration: %w", err)
	}
	if b, err = in.readBlob(m.Config.Digest); err != nil {
		return Image{}, err
	}
	c, err := parseConfig(b, len(m.Layers))
	if err != nil {
		return Image{}, fmt.Errorf("configuration %s: %w", m.Config.Digest, err)
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	var layers []Layer
	seen := map[digest.Digest]bool{}
	for i, l := range m.Layers {
		layers = append(layers, Layer{Digest: l.Digest, DiffID: c.RootFS.DiffIDs[i], MediaType: l.MediaType, Size: l.Size})
		if seen[l.Digest] {
			continue
		}
		seen[l.Digest] = true
		g.Go(func() error { return in.addDescribed(gctx, src, l) })
	}
	if err := g.Wait(); err != nil {
		return Image{}, err
	}
	err = in.check(ctx, layers, func(i int) string {
		return src.describe(filepath.ToSlash("blobs/sha256/" + layers[i].Digest.Encoded()))
	})
	return newImage(name, d, m.Config, *c, layers), err
}
