// Package imagetest makes OCI image layouts for tests. A Layout is filled by Blob and Image in any order; Index comes last.
package imagetest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Entry is an entry of a layer.
type Entry struct {
	tar.Header
	// Content is a regular file's; it gives Size.
	Content string
}

// File returns an entry of a regular file of mode 0644.
func File(name, content string) Entry {
	return Entry{tar.Header{Name: name, Mode: 0o644, Typeflag: tar.TypeReg}, content}
}

// Tar returns the entries as a tar.
func Tar(t testing.TB, entries ...Entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		e.Size = int64(len(e.Content))
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.Content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Gzip compresses bytes.
func Gzip(t testing.TB, plain []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Layout is an OCI image layout.
type Layout struct {
	// Dir is its directory.
	Dir string

	t testing.TB
}

// New makes an empty layout in a temporary directory of the test's.
func New(t testing.TB) *Layout {
	t.Helper()
	l := &Layout{Dir: filepath.Join(t.TempDir(), "layout"), t: t}
	if err := os.MkdirAll(filepath.Join(l.Dir, "blobs", "sha256"), 0o755); err != nil {
		t.Fatal(err)
	}
	l.Write(ocispec.ImageLayoutFile, []byte(`{"imageLayoutVersion":"1.0.0"}`))
	return l
}

// Write writes a file by its path in the layout.
func (l *Layout) Write(name string, b []byte) {
	l.t.Helper()
	if err := os.WriteFile(filepath.Join(l.Dir, name), b, 0o644); err != nil {
		l.t.Fatal(err)
	}
}

// BlobPath returns where a blob lies.
func (l *Layout) BlobPath(d digest.Digest) string {
	return filepath.Join(l.Dir, "blobs", "sha256", d.Encoded())
}

// Blob adds bytes.
func (l *Layout) Blob(mediaType string, b []byte) ocispec.Descriptor {
	l.t.Helper()
	d := digest.FromBytes(b)
	l.Write("blobs/sha256/"+d.Encoded(), b)
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(b))}
}

// JSON adds a value's JSON.
func (l *Layout) JSON(mediaType string, v any) ocispec.Descriptor {
	l.t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		l.t.Fatal(err)
	}
	return l.Blob(mediaType, b)
}

// Config returns the configuration of an image for this host with no layers.
func Config() ocispec.Image {
	return ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH}, RootFS: ocispec.RootFS{Type: "layers"}}
}

// Image adds an image of uncompressed layers, each as a gzip blob, and returns its manifest. change, if any, is called on the
// configuration and the manifest before they are written.
func (l *Layout) Image(layers [][]byte, change func(*ocispec.Image, *ocispec.Manifest)) ocispec.Descriptor {
	l.t.Helper()
	c := Config()
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	for _, layer := range layers {
		m.Layers = append(m.Layers, l.Blob(ocispec.MediaTypeImageLayerGzip, Gzip(l.t, layer)))
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, digest.FromBytes(layer))
	}
	if change != nil {
		change(&c, &m)
	}
	if m.Config.Digest == "" {
		m.Config = l.JSON(ocispec.MediaTypeImageConfig, c)
	}
	return l.JSON(ocispec.MediaTypeImageManifest, m)
}

// Index writes index.json.
func (l *Layout) Index(manifests ...ocispec.Descriptor) {
	l.t.Helper()
	b, err := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: manifests})
	if err != nil {
		l.t.Fatal(err)
	}
	l.Write(ocispec.ImageIndexFile, b)
}

// Named returns a descriptor with a reference name.
func Named(d ocispec.Descriptor, name string) ocispec.Descriptor {
	d.Annotations = map[string]string{ocispec.AnnotationRefName: name}
	return d
}

// For returns a descriptor with a platform.
func For(d ocispec.Descriptor, os, architecture string) ocispec.Descriptor {
	d.Platform = &ocispec.Platform{OS: os, Architecture: architecture}
	return d
}
