// Package image keeps OCI images in a directory of the host: it imports them from files, verifies every digest on the way,
// and hands out their configuration and their layers.
//
// Any number of processes may use one directory, and each may be killed at any moment: an image appears with all of its
// blobs or not at all. Legal order: Open, then the Store's methods in any order and by any goroutine.
package image

import (
	"fmt"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Image is an image of the store.
type Image struct {
	// Name is the full local name, with a tag.
	Name string `json:"name"`
	// Digest is of the image's manifest.
	Digest digest.Digest `json:"digest"`
	// Created is when the image was made, as its configuration says; when that does not, when it was imported.
	Created time.Time `json:"created"`
	// Size is of the image's blobs, as they are stored, in bytes.
	Size int64 `json:"size"`
	// Config is the image's configuration.
	Config ocispec.Image `json:"config"`
	// Layers are the layers, the lowest first.
	Layers []Layer `json:"layers"`
	// Blobs are all blobs of the image: manifest, configuration and layers.
	Blobs []digest.Digest `json:"blobs"`
	// Source is the digest by which a registry has the image: of its manifest, or of the index out of which that was chosen. It
	// is empty for an image that did not come from a registry.
	Source digest.Digest `json:"source,omitempty"`
}

// CheckPlatform returns an error for an image whose programs guests of this host can't run.
func (img Image) CheckPlatform() error {
	if p := img.Config.Platform; !fits(&p) {
		return fmt.Errorf("the image is for %s/%s, and guests here are %s: pull it with --platform %s", p.OS, p.Architecture,
			platform(), platform())
	}
	return nil
}

// Layer is one layer of an image.
type Layer struct {
	// Digest is of the layer as it is stored, which may be compressed.
	Digest digest.Digest `json:"digest"`
	// DiffID is the digest of the uncompressed layer.
	DiffID digest.Digest `json:"diffID"`
	// MediaType is the manifest's.
	MediaType string `json:"mediaType"`
	// Size is of the layer as it is stored, in bytes.
	Size int64 `json:"size"`
}

// MediaTypeDisk is of the one layer of an image that was imported from a directory: it is an EROFS disk already. Only this
// store knows the type.
const MediaTypeDisk = "application/vnd.runcvm.image.layer.v1.erofs"

// Names are like Docker's, but lower and upper case, and without a registry that goes without saying.
var (
	nameRE = lazily(`^(\[[0-9A-Fa-f:]+\](:[0-9]+)?/)?[A-Za-z0-9]+([._:-]+[A-Za-z0-9]+)*(/[A-Za-z0-9]+([._-]+[A-Za-z0-9]+)*)*$`)
	tagRE  = lazily(`^[A-Za-z0-9_][A-Za-z0-9_.-]*$`)
)

// maxTag bounds a tag, in bytes.
const maxTag = 128

// lazily compiles a regular expression when it is first used: what is compiled at the program's start is a part of every
// container's.
func lazily(expression string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expression) })
}

// maxName bounds a name, so that its escaped form is a file name.
const maxName = 200

// NormalizeName returns the full form of a name: what Docker takes for granted (docker.io/library/) is taken away, and a name
// without a tag gets ":latest". Where there is a digest ("@sha256:..."), it stands in place of any tag. The error is
// errdefs.ErrInvalidArgument.
func NormalizeName(name string) (string, error) {
	full := name
	for _, p := range []string{"index.docker.io/", "docker.io/"} {
		full = strings.TrimPrefix(full, p)
	}
	full = strings.TrimPrefix(full, "library/")
	full, pinned, byDigest := strings.Cut(full, "@")
	base, tag := full, "latest"
	// A colon before the last slash is a port's.
	if i := strings.LastIndexByte(full, ':'); i > strings.LastIndexByte(full, '/') {
		base, tag = full[:i], full[i+1:]
	}
	if len(full) > maxName || len(tag) > maxTag || !nameRE().MatchString(base) || !tagRE().MatchString(tag) {
		return "", fmt.Errorf("%w: %q is no name of an image: use letters, digits and ._-/ with an optional :tag, at most %d bytes",
			errdefs.ErrInvalidArgument, name, maxName)
	}
	if !byDigest {
		return base + ":" + tag, nil
	}
	if d := digest.Digest(pinned); d.Validate() != nil || d.Algorithm() != digest.SHA256 {
		return "", fmt.Errorf("%w: %q: after the @ has to be a digest, sha256: and 64 hexadecimal digits", errdefs.ErrInvalidArgument, name)
	}
	return base + "@" + pinned, nil
}

var notInName = lazily(`[^A-Za-z0-9._-]+`)

// nameOfPath makes a name from the last part of a path.
func nameOfPath(path string) (string, error) {
	base := path[strings.LastIndexByte(strings.TrimRight(path, "/"), '/')+1:]
	base = strings.TrimRight(base, "/")
	for _, suffix := range []string{".gz", ".tgz", ".xz", ".txz", ".zst", ".tzst", ".tar", ".oci"} {
		base = strings.TrimSuffix(base, suffix)
	}
	name, err := NormalizeName(strings.Trim(notInName().ReplaceAllString(base, "-"), "._-"))
	if err != nil {
		return "", fmt.Errorf("%w: no name of an image can be made of %q: give one", errdefs.ErrInvalidArgument, path)
	}
	return name, nil
}
