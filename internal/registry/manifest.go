package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/runcvm/runcvm/internal/image"
	"github.com/runcvm/runcvm/internal/image/layer"
)

// Docker's media types of what the OCI specification took over (distribution, manifest v2 schema 2), and of what came before.
const (
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerConfig   = "application/vnd.docker.container.image.v1+json"
	dockerLayer    = "application/vnd.docker.image.rootfs.diff.tar"
	schema1        = "application/vnd.docker.distribution.manifest.v1+json"
	schema1Signed  = "application/vnd.docker.distribution.manifest.v1+prettyjws"
)

// accepted are the media types that are asked for. Schema 1 is not: a registry that can then makes no such manifest.
var accepted = strings.Join([]string{ocispec.MediaTypeImageIndex, ocispec.MediaTypeImageManifest, dockerList, dockerManifest}, ", ")

const (
	// maxManifest bounds a manifest, an index or a configuration, in bytes: what registries themselves take.
	maxManifest = 4 << 20
	// maxLayers bounds the layers of an image; Docker's own limit is 127.
	maxLayers = 1000
)

// document is a manifest or an index.
type document struct {
	desc ocispec.Descriptor
	body []byte
}

// manifest fetches a manifest or an index by tag or digest.
func (p *place) manifest(ctx context.Context, what string) (document, error) {
	body, header, err := p.ask(ctx, what)
	if err != nil {
		return document{}, err
	}
	d := document{ocispec.Descriptor{MediaType: mediaType(header.Get("Content-Type"), body), Digest: digest.FromBytes(body),
		Size: int64(len(body))}, body}
	want := digest.Digest(what)
	if want.Validate() != nil {
		// By tag there is nothing to hold it to but the registry's own word.
		want = digest.Digest(header.Get("Docker-Content-Digest"))
	}
	if want.Validate() == nil && want.Algorithm() == digest.SHA256 && want != d.desc.Digest {
		return document{}, fmt.Errorf("registry %s: manifest %s: %w: content has %s instead of %s", p.host, what, layer.ErrDigest,
			d.desc.Digest, want)
	}
	return d, nil
}

// ask gets the whole answer to the question for a manifest, again where the connection breaks in the middle.
func (p *place) ask(ctx context.Context, what string) ([]byte, http.Header, error) {
	attempts := maxAttempts
	if p.mirror {
		attempts = maxMirrorAttempts
	}
	for n := 1; ; n++ {
		b, header, err := p.askOnce(ctx, what)
		if err == nil || n >= attempts || ctx.Err() != nil || !errors.Is(err, errBroken) {
			return b, header, err
		}
		delay := backoff(n)
		p.c.o.Progress.Note(fmt.Sprintf("%v; trying again in %s", err, delay.Round(time.Millisecond)))
		if err := sleep(ctx, delay); err != nil {
			return nil, nil, err
		}
	}
}

// errBroken says that an answer began and did not come to its end.
var errBroken = errors.New("the connection broke")

func (p *place) askOnce(ctx context.Context, what string) ([]byte, http.Header, error) {
	client, err := p.connect(ctx)
	if err != nil {
		return nil, nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url("manifests", what), nil)
	if err != nil {
		return nil, nil, err
	}
	req.Header.Set("Accept", accepted)
	resp, err := client.Do(req)
	if err != nil {
		return nil, nil, p.explain(err)
	}
	defer resp.Body.Close()
	if err := transport.CheckError(resp, http.StatusOK); err != nil {
		return nil, nil, p.explain(err)
	}
	// The whole of it may take as long as the silence may last: it is small.
	timer := time.AfterFunc(p.c.o.Timeout, func() { resp.Body.Close() })
	defer timer.Stop()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxManifest+1))
	switch {
	case err != nil:
		return nil, nil, fmt.Errorf("registry %s: manifest %s: %w: %w", p.host, what, errBroken, err)
	case len(b) > maxManifest:
		return nil, nil, fmt.Errorf("registry %s: manifest %s is larger than the %d bytes that it may have: %w", p.host, what, maxManifest,
			errdefs.ErrOutOfRange)
	}
	return b, resp.Header, nil
}

// mediaType says what a manifest is: by itself, else by its header, else by what is in it.
func mediaType(header string, body []byte) string {
	var m struct {
		SchemaVersion int             `json:"schemaVersion"`
		MediaType     string          `json:"mediaType"`
		Manifests     json.RawMessage `json:"manifests"`
		Config        json.RawMessage `json:"config"`
	}
	_ = json.Unmarshal(body, &m) // what is not JSON is refused later, by its type or by its parser
	header, _, _ = strings.Cut(header, ";")
	header = strings.TrimSpace(header)
	switch {
	case m.MediaType != "":
		return m.MediaType
	case m.SchemaVersion == 1:
		return schema1
	case slices.Contains([]string{ocispec.MediaTypeImageIndex, dockerList, ocispec.MediaTypeImageManifest, dockerManifest, schema1,
		schema1Signed}, header):
		return header
	case m.Manifests != nil:
		return ocispec.MediaTypeImageIndex
	case m.Config != nil:
		return ocispec.MediaTypeImageManifest
	}
	return header
}

// maxIndexes bounds how deep indexes may be nested.
const maxIndexes = 4

// resolve finds the manifest for a platform: the document itself, or one of those that an index names.
func (p *place) resolve(ctx context.Context, d document, want platforms.MatchComparer, named string) (document, error) {
	for range maxIndexes {
		switch d.desc.MediaType {
		case ocispec.MediaTypeImageManifest, dockerManifest:
			return d, nil
		case ocispec.MediaTypeImageIndex, dockerList:
		case schema1, schema1Signed:
			return document{}, fmt.Errorf("manifest %s is of schema 1, which Docker gave up in 2017: push the image again: %w",
				d.desc.Digest, errdefs.ErrNotImplemented)
		default:
			return document{}, fmt.Errorf("manifest %s is of type %q, no image: %w", d.desc.Digest, clean(d.desc.MediaType, 100),
				errdefs.ErrNotImplemented)
		}
		index, err := image.ParseIndex(d.body)
		if err != nil {
			return document{}, fmt.Errorf("index %s: %w", d.desc.Digest, err)
		}
		chosen, err := choose(index.Manifests, want, named)
		if err != nil {
			return document{}, fmt.Errorf("index %s: %w", d.desc.Digest, err)
		}
		next, err := p.manifest(ctx, chosen.Digest.String())
		if err != nil {
			return document{}, err
		}
		d = next
	}
	return document{}, fmt.Errorf("indexes are nested deeper than %d", maxIndexes)
}

// choose picks the image for a platform, the best where there are several.
func choose(all []ocispec.Descriptor, want platforms.MatchComparer, named string) (ocispec.Descriptor, error) {
	var fit []ocispec.Descriptor
	var have []string
	for _, d := range all {
		if d.Platform == nil {
			// Without a platform it may be anything; its configuration says later.
			switch d.MediaType {
			case ocispec.MediaTypeImageManifest, dockerManifest, ocispec.MediaTypeImageIndex:
				fit = append(fit, d)
			}
			continue
		}
		if d.Platform.OS == "unknown" {
			continue // BuildKit lists attestations beside images
		}
		have = append(have, clean(platforms.Format(*d.Platform), 40))
		if want.Match(*d.Platform) {
			fit = append(fit, d)
		}
	}
	if len(fit) == 0 {
		const most = 20
		if len(have) > most {
			have = append(have[:most], fmt.Sprintf("and %d more", len(have)-most))
		}
		return ocispec.Descriptor{}, fmt.Errorf("there is no image for %s; there are %s: %w", named, strings.Join(have, ", "),
			errdefs.ErrNotFound)
	}
	slices.SortStableFunc(fit, func(a, b ocispec.Descriptor) int {
		switch {
		case a.Platform == nil || b.Platform == nil:
			if a.Platform != nil {
				return -1
			}
			if b.Platform != nil {
				return 1
			}
			return 0
		case want.Less(*a.Platform, *b.Platform):
			return -1
		case want.Less(*b.Platform, *a.Platform):
			return 1
		}
		return 0
	})
	return fit[0], nil
}

// checkTypes refuses, by name, what is no image or has layers that no disk can be made of.
func checkTypes(m *ocispec.Manifest) error {
	switch m.Config.MediaType {
	case ocispec.MediaTypeImageConfig, dockerConfig:
	default:
		return fmt.Errorf("it is no image: its configuration is of type %q: %w", clean(m.Config.MediaType, 100), errdefs.ErrNotImplemented)
	}
	if len(m.Layers) > maxLayers {
		return fmt.Errorf("it has %d layers, more than %d: %w", len(m.Layers), maxLayers, errdefs.ErrOutOfRange)
	}
	var errs []error
	for _, l := range m.Layers {
		switch t := l.MediaType; {
		case strings.Contains(t, "foreign") || strings.Contains(t, "nondistributable"):
			errs = append(errs, fmt.Errorf("layer %s is of type %q: such layers are not in registries, and Linux images have none: %w",
				l.Digest, clean(t, 100), errdefs.ErrNotImplemented))
		case !slices.Contains(layerTypes, t):
			errs = append(errs, fmt.Errorf("layer %s is of type %q, not one of %s: %w", l.Digest, clean(t, 100),
				strings.Join(layerTypes, ", "), errdefs.ErrNotImplemented))
		}
	}
	return errors.Join(errs...)
}

// layerTypes are what a layer may be. How it is compressed is found out from its first bytes.
var layerTypes = []string{ocispec.MediaTypeImageLayer, ocispec.MediaTypeImageLayerGzip, ocispec.MediaTypeImageLayerZstd,
	dockerLayer, dockerLayer + ".gzip", dockerLayer + ".zstd"}
