package image

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/runcvm/runcvm/internal/image/imagetest"
	"github.com/runcvm/runcvm/internal/rootfs/tree"
)

// FuzzImportIndex imports layouts whose index, manifest and configuration are foreign bytes, and checks that what is refused
// leaves nothing, and what is taken can be read.
func FuzzImportIndex(f *testing.F) {
	seed := simple(f, "seed", "content")
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(seed.Dir, name))
		if err != nil {
			f.Fatal(err)
		}
		return b
	}
	var index ocispec.Index
	var manifest ocispec.Manifest
	if err := json.Unmarshal(read("index.json"), &index); err != nil {
		f.Fatal(err)
	}
	manifestBytes := read("blobs/sha256/" + index.Manifests[0].Digest.Encoded())
	if err := json.Unmarshal(manifestBytes, &manifest); err != nil {
		f.Fatal(err)
	}
	layerPath := seed.BlobPath(manifest.Layers[0].Digest)
	layerJSON, err := json.Marshal(manifest.Layers)
	if err != nil {
		f.Fatal(err)
	}
	const entry = `{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"MANIFEST","size":MSIZE,"annotations":{"org.opencontainers.image.ref.name":"n:t"}}`
	config := read("blobs/sha256/" + manifest.Config.Digest.Encoded())
	f.Add([]byte(`{"schemaVersion":2,"manifests":[`+entry+`]}`),
		[]byte(`{"schemaVersion":2,"config":{"mediaType":"x","digest":"CONFIG","size":CSIZE},"layers":`+string(layerJSON)+`}`), config)
	f.Add([]byte(`{"schemaVersion":2,"manifests":[`+strings.Replace(entry, "manifest.v1", "index.v1", 1)+`]}`), []byte(`{"schemaVersion":2,"manifests":[]}`), config)
	f.Fuzz(func(t *testing.T, index, manifest, config []byte) {
		l := imagetest.New(t)
		packed, err := os.ReadFile(layerPath)
		if err != nil {
			t.Fatal(err)
		}
		l.Blob("", packed)
		// Digests and sizes that are right, wherever the fuzzer left their places, let it get deeper.
		fill := func(b []byte, digest, size string, d ocispec.Descriptor) []byte {
			b = bytes.ReplaceAll(b, []byte(digest), []byte(d.Digest))
			return bytes.ReplaceAll(b, []byte(size), fmt.Append(nil, d.Size))
		}
		m := l.Blob("", fill(manifest, "CONFIG", "CSIZE", l.Blob("", config)))
		l.Write("index.json", fill(index, "MANIFEST", "MSIZE", m))
		s := open(t)
		img, err := s.Import(t.Context(), l.Dir, "")
		if err != nil {
			if left := contents(t, s); len(left) > 0 {
				t.Errorf("refused (%v), but the store has %q", err, left)
			}
			return
		}
		got, err := s.Get(t.Context(), img.Name)
		if err != nil || got.Digest != img.Digest || len(got.Layers) != len(got.Config.RootFS.DiffIDs) {
			t.Errorf("imported %+v, got %+v: %v", img, got, err)
		}
	})
}

// FuzzImportFile imports files of foreign bytes, and checks the same.
func FuzzImportFile(f *testing.F) {
	root := imagetest.Tar(f, imagetest.File("a", "content"))
	for _, seed := range [][]byte{root, imagetest.Gzip(f, root), dockerArchive(f, true, "x:y"), tarOf(f, simple(f, "seed", "content").Dir)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		s := open(t)
		s.Limits = tree.Limits{Bytes: 1 << 20, Size: 1 << 20, Entries: 100}
		img, err := s.Import(t.Context(), path, "")
		if err != nil {
			if left := contents(t, s); len(left) > 0 {
				t.Errorf("refused (%v), but the store has %q", err, left)
			}
			return
		}
		for _, l := range img.Layers {
			r, err := s.OpenLayer(l)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, r); err != nil {
				t.Errorf("imported, but layer %s can't be read: %v", l.Digest, err)
			}
			r.Close()
		}
	})
}
