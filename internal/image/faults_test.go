package image

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/runcvm/runcvm/internal/image/imagetest"
	"github.com/runcvm/runcvm/internal/image/layer"
	"github.com/runcvm/runcvm/internal/rootfs/tree"
)

func TestFaultyImagesAreRefusedAndLeaveNothing(t *testing.T) {
	layerTar := imagetest.Tar(t, imagetest.File("a", strings.Repeat("content", 1000)))
	damage := func(l *imagetest.Layout, d digest.Digest, change func([]byte) []byte) {
		b, err := os.ReadFile(l.BlobPath(d))
		if err == nil {
			err = os.WriteFile(l.BlobPath(d), change(b), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	flip := func(b []byte) []byte { b[len(b)/2] ^= 1; return b }
	cut := func(b []byte) []byte { return b[:len(b)-20] }
	// refit writes other bytes of a layer as if they had been meant.
	refit := func(l *imagetest.Layout, blob []byte, diffID digest.Digest) {
		l.Index(l.Image(nil, func(c *ocispec.Image, m *ocispec.Manifest) {
			m.Layers = []ocispec.Descriptor{l.Blob(ocispec.MediaTypeImageLayerGzip, blob)}
			c.RootFS.DiffIDs = []digest.Digest{diffID}
		}))
	}
	packed := imagetest.Gzip(t, layerTar)
	var manifest ocispec.Manifest
	image := func(l *imagetest.Layout) ocispec.Descriptor {
		return l.Image([][]byte{layerTar}, func(c *ocispec.Image, m *ocispec.Manifest) {
			m.Config = l.JSON(ocispec.MediaTypeImageConfig, c)
			manifest = *m
		})
	}
	tests := []struct {
		name  string
		fault func(l *imagetest.Layout)
		want  []string
	}{
		{"layer changed", func(l *imagetest.Layout) { l.Index(image(l)); damage(l, manifest.Layers[0].Digest, flip) }, []string{"LAYER", "digest does not match", "blobs/sha256/"}},
		{"layer cut off", func(l *imagetest.Layout) { l.Index(image(l)); damage(l, manifest.Layers[0].Digest, cut) }, []string{"LAYER", "bytes, its descriptor says"}},
		{"layer too long", func(l *imagetest.Layout) {
			l.Index(image(l))
			damage(l, manifest.Layers[0].Digest, func(b []byte) []byte { return append(b, 0) })
		}, []string{"LAYER", "more than"}},
		{"layer missing", func(l *imagetest.Layout) {
			l.Index(image(l))
			if err := os.Remove(l.BlobPath(manifest.Layers[0].Digest)); err != nil {
				t.Fatal(err)
			}
		}, []string{"LAYER", "is missing"}},
		{"configuration changed", func(l *imagetest.Layout) { l.Index(image(l)); damage(l, manifest.Config.Digest, flip) }, []string{"configuration", "digest does not match"}},
		{"manifest changed", func(l *imagetest.Layout) { d := image(l); l.Index(d); damage(l, d.Digest, flip) }, []string{"digest does not match"}},
		{"another diff_id", func(l *imagetest.Layout) { refit(l, packed, digest.FromString("other")) }, []string{"digest does not match", digest.FromString("other").String()}},
		{"too few diff_ids", func(l *imagetest.Layout) {
			l.Index(l.Image([][]byte{layerTar}, func(c *ocispec.Image, _ *ocispec.Manifest) { c.RootFS.DiffIDs = nil }))
		}, []string{"0 diff_ids, the manifest has 1 layers"}},
		{"corrupt gzip", func(l *imagetest.Layout) { refit(l, flip(bytes.Clone(packed)), digest.FromBytes(layerTar)) }, []string{"gzip", "blobs/sha256/"}},
		{"cut off gzip", func(l *imagetest.Layout) { refit(l, cut(bytes.Clone(packed)), digest.FromBytes(layerTar)) }, []string{"cut off", "unexpected EOF"}},
		{"cut off tar", func(l *imagetest.Layout) {
			b := layerTar[:2000]
			refit(l, imagetest.Gzip(t, b), digest.FromBytes(b))
		}, []string{"cut off"}},
		{"traversal", func(l *imagetest.Layout) {
			l.Index(l.Image([][]byte{imagetest.Tar(t, imagetest.File("../../etc/x", "x"))}, nil))
		}, []string{`"../../etc/x"`, `".." in a path`}},
		{"bomb", func(l *imagetest.Layout) {
			b := imagetest.Tar(t, imagetest.File("a", strings.Repeat("\x00", 2<<20)))
			refit(l, imagetest.Gzip(t, b), digest.FromBytes(b))
		}, []string{"beyond the limit of 1048576 bytes"}},
		{"encrypted layer", func(l *imagetest.Layout) {
			l.Index(l.Image([][]byte{layerTar}, func(_ *ocispec.Image, m *ocispec.Manifest) { m.Layers[0].MediaType += "+encrypted" }))
		}, []string{"+encrypted"}},
		{"digest of another algorithm", func(l *imagetest.Layout) {
			l.Index(ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.SHA512.FromString("x"), Size: 1})
		}, []string{"only sha256"}},
		{"digest that points outside", func(l *imagetest.Layout) {
			l.Index(ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: "sha256:../../../../etc/passwd", Size: 1})
		}, []string{"sha256:../../"}},
		{"blob that is a link to the host", func(l *imagetest.Layout) {
			d := digest.FromString("x")
			if err := os.Symlink("/etc/passwd", l.BlobPath(d)); err != nil {
				t.Fatal(err)
			}
			l.Index(ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: d, Size: 1})
		}, []string{"escapes"}},
		{"index that is none", func(l *imagetest.Layout) { l.Write("index.json", []byte("[]")) }, []string{"index.json", "not an image index"}},
		{"index without a version", func(l *imagetest.Layout) { l.Write("index.json", []byte("{}")) }, []string{"schema version 0"}},
		{"layout of another version", func(l *imagetest.Layout) { l.Write("oci-layout", []byte(`{"imageLayoutVersion":"2.0.0"}`)) }, []string{"layout version"}},
		{"large index", func(l *imagetest.Layout) { l.Write("index.json", bytes.Repeat([]byte(" "), maxJSON+1)) }, []string{"larger than"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := open(t)
			s.Limits = tree.Limits{Bytes: 1 << 20}
			l := imagetest.New(t)
			tt.fault(l)
			_, err := s.Import(t.Context(), l.Dir, "faulty")
			for _, want := range tt.want {
				if want == "LAYER" {
					want = manifest.Layers[0].Digest.String()
				}
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("error %v, want one with %q", err, want)
				}
			}
			if left := contents(t, s); len(left) > 0 {
				t.Errorf("the store has %q", left)
			}
		})
	}
}

func TestFilesThatAreNoImageAreRefused(t *testing.T) {
	tests := []struct {
		name, content, want string
	}{
		{"text", "this is no image, but some text that is long enough to be taken for the header of an archive" + strings.Repeat(".", 1000), "neither a directory nor a tar"},
		{"empty", "", "empty"},
		{"short", "x", "read the archive"},
		{"gzip of text", string(imagetest.Gzip(t, bytes.Repeat([]byte("text "), 200))), "neither a directory nor a tar"},
		{"docker archive without its layer", string(imagetest.Tar(t, imagetest.File("manifest.json", `[{"Config":"c.json","Layers":["l.tar"]}]`))), "c.json is missing"},
		{"docker archive without images", string(imagetest.Tar(t, imagetest.File("manifest.json", `[]`))), "lists 0 images"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, path := open(t), filepath.Join(t.TempDir(), "file")
			if err := os.WriteFile(path, []byte(tt.content), 0o644); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Import(t.Context(), path, ""); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
			if left := contents(t, s); len(left) > 0 {
				t.Errorf("the store has %q", left)
			}
		})
	}
	bomb := filepath.Join(t.TempDir(), "bomb.tar.gz")
	for _, name := range []string{"manifest.json", "blobs/x", "root"} {
		s := open(t)
		s.Limits = tree.Limits{Bytes: 1 << 20}
		b := imagetest.Gzip(t, imagetest.Tar(t, imagetest.File(name, strings.Repeat(" ", 2<<20))))
		if err := os.WriteFile(bomb, b, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Import(t.Context(), bomb, ""); !errors.Is(err, tree.ErrLimit) {
			t.Errorf("bomb in %s: %v", name, err)
		}
		if left := contents(t, s); len(left) > 0 {
			t.Errorf("bomb in %s: the store has %q", name, left)
		}
	}
	if _, err := open(t).Import(t.Context(), "/no/such/path", ""); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no such path: %v", err)
	}
}

func TestADamagedRecordIsNamedAndCanBeRemoved(t *testing.T) {
	s := open(t)
	if _, err := s.Import(t.Context(), simple(t, "bad", "1").Dir, ""); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.namePath("bad:latest"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(t.Context(), "bad"); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("get: %v", err)
	}
	if _, err := s.Import(t.Context(), simple(t, "good", "2").Dir, ""); err != nil {
		t.Errorf("import beside it: %v", err)
	}
	if err := s.Remove(t.Context(), "bad"); err != nil {
		t.Errorf("remove: %v", err)
	}
	if left := contents(t, s); len(left) != 4 {
		t.Errorf("the store has %q", left)
	}
}

func TestADamagedLayerIsSeenWhenItIsRead(t *testing.T) {
	s := open(t)
	img, err := s.Import(t.Context(), simple(t, "x", strings.Repeat("content", 100)).Dir, "")
	if err != nil {
		t.Fatal(err)
	}
	plain := imagetest.Gzip(t, imagetest.Tar(t, imagetest.File("a", "evil")))
	if err := os.WriteFile(s.blobPath(img.Layers[0].Digest), plain, 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := s.OpenLayer(img.Layers[0])
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := io.Copy(io.Discard, r); !errors.Is(err, layer.ErrDigest) || !strings.Contains(err.Error(), s.dir) {
		t.Errorf("error %v", err)
	}
}
