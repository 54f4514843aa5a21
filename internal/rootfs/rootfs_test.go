package rootfs

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	goerofs "github.com/erofs/go-erofs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/runcvm/runcvm/internal/image"
)

// file is an entry of a layer that a test makes.
type file struct {
	tar.Header
	content string
}

func reg(name, content string) file {
	return file{tar.Header{Name: name, Mode: 0o644, Typeflag: tar.TypeReg}, content}
}

// layerOf makes a gzip layer, and returns its digest when uncompressed too.
func layerOf(t testing.TB, files []file) ([]byte, digest.Digest) {
	t.Helper()
	var plain, packed bytes.Buffer
	w := tar.NewWriter(&plain)
	for _, f := range files {
		f.Size = int64(len(f.content))
		if err := w.WriteHeader(&f.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, f.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	z := gzip.NewWriter(&packed)
	if _, err := z.Write(plain.Bytes()); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return packed.Bytes(), digest.FromBytes(plain.Bytes())
}

// layout writes an OCI layout with one image and returns its path.
func layout(t testing.TB, layers ...[]file) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "layout")
	blobs := filepath.Join(dir, "blobs", "sha256")
	if err := os.MkdirAll(blobs, 0o755); err != nil {
		t.Fatal(err)
	}
	write := func(path string, b []byte) {
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	add := func(mediaType string, b []byte) ocispec.Descriptor {
		d := digest.FromBytes(b)
		write(filepath.Join(blobs, d.Encoded()), b)
		return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(b))}
	}
	encode := func(v any) []byte {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	c := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}, RootFS: ocispec.RootFS{Type: "layers"}}
	for _, l := range layers {
		b, diffID := layerOf(t, l)
		m.Layers = append(m.Layers, add(ocispec.MediaTypeImageLayerGzip, b))
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, diffID)
	}
	m.Config = add(ocispec.MediaTypeImageConfig, encode(c))
	d := add(ocispec.MediaTypeImageManifest, encode(m))
	d.Annotations = map[string]string{ocispec.AnnotationRefName: "demo"}
	write(filepath.Join(dir, ocispec.ImageIndexFile), encode(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []ocispec.Descriptor{d}}))
	write(filepath.Join(dir, ocispec.ImageLayoutFile), []byte(`{"imageLayoutVersion":"1.0.0"}`))
	return dir
}

// imported imports a layout into a new store.
func imported(t testing.TB, layers ...[]file) (*image.Store, image.Image) {
	t.Helper()
	store, err := image.Open(filepath.Join(t.TempDir(), "images"))
	if err != nil {
		t.Fatal(err)
	}
	img, err := store.Import(t.Context(), layout(t, layers...), "")
	if err != nil {
		t.Fatal(err)
	}
	return store, img
}

func cache(t testing.TB) *Cache {
	t.Helper()
	c, err := OpenCache(filepath.Join(t.TempDir(), "disks"))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func readFile(t testing.TB, disk, name string) (string, error) {
	t.Helper()
	f, err := os.Open(disk)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fsys, err := goerofs.Open(f)
	if err != nil {
		t.Fatal(err)
	}
	g, err := fsys.Open(name)
	if err != nil {
		return "", err
	}
	defer g.Close()
	b, err := io.ReadAll(g)
	return string(b), err
}

func TestImageDiskHasTheImagesFiles(t *testing.T) {
	store, img := imported(t, []file{reg("etc/a", "lower"), reg("etc/b", "stays")}, []file{reg("etc/a", "upper")})
	if img.Name != "demo:latest" {
		t.Errorf("name %q", img.Name)
	}
	if got, err := store.Get(t.Context(), "demo"); err != nil || got.Digest != img.Digest {
		t.Errorf("get: %v, %v", got, err)
	}
	c := cache(t)
	d, err := c.ImageDisk(t.Context(), store, img, DiskOptions{Cache: true})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for name, want := range map[string]string{"etc/a": "upper", "etc/b": "stays"} {
		if got, err := readFile(t, d.Path, name); err != nil || got != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

func TestWritableDiskHoldsTheCommand(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rootfs.ext4")
	o := WritableOptions{Size: 1 << 30, UUID: "01234567-89ab-cdef-0123-456789abcdef", Entrypoint: []string{"sh", "-c", "a\n\"b\" é", ""}, Config: []byte("{}")}
	if err := CreateWritable(t.Context(), path, o); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("debugfs", "-R", "cat /.runcvm/entrypoint", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	if err := json.Unmarshal(out, &got); err != nil || len(got) != 4 || got[2] != o.Entrypoint[2] {
		t.Errorf("entrypoint %q: %v", out, err)
	}
	if out, err := exec.Command("e2fsck", "-fn", path).CombinedOutput(); err != nil {
		t.Errorf("e2fsck: %v\n%s", err, out)
	}
}

func BenchmarkCreateWritable(b *testing.B) {
	dir := b.TempDir()
	for b.Loop() {
		path := filepath.Join(dir, "rootfs.ext4")
		if err := CreateWritable(b.Context(), path, WritableOptions{Size: 10 << 30, UUID: "01234567-89ab-cdef-0123-456789abcdef", Entrypoint: []string{"sh"}, Config: []byte("{}")}); err != nil {
			b.Fatal(err)
		}
		os.Remove(path)
	}
}

func BenchmarkCachedImageDisk(b *testing.B) {
	store, img := imported(b, []file{reg("a", "b")})
	c := cache(b)
	for b.Loop() {
		d, err := c.ImageDisk(b.Context(), store, img, DiskOptions{Cache: true})
		if err != nil {
			b.Fatal(err)
		}
		d.Close()
	}
}
