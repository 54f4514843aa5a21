package rootfs

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/runcvm/runcvm/internal/image"
	"github.com/runcvm/runcvm/internal/image/imagetest"
)

// benchRoot returns the root file system that the benchmarks are about: RUNCVM_BENCH_ROOT, which `debootstrap
// --variant=minbase` makes, or else a part of this host's.
func benchRoot(b *testing.B) string {
	b.Helper()
	if root := os.Getenv("RUNCVM_BENCH_ROOT"); root != "" {
		return root
	}
	return "/usr/share"
}

func run(b *testing.B, name string, args ...string) {
	b.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		b.Fatalf("%s: %v\n%s", name, err, out)
	}
}

// benchLayers makes two gzip layers of the root, the second one of a part of it, and imports them as an image.
func benchLayers(b *testing.B) (*image.Store, image.Image, []string) {
	b.Helper()
	root, dir := benchRoot(b), b.TempDir()
	sub := root
	if _, err := os.Stat(root + "/usr/lib"); err == nil {
		sub = root + "/usr/lib"
	}
	blobs := filepath.Join(dir, "layout", "blobs", "sha256")
	if err := os.MkdirAll(blobs, 0o755); err != nil {
		b.Fatal(err)
	}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}}
	c := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}}
	add := func(v any) ocispec.Descriptor {
		text, err := json.Marshal(v)
		if err == nil {
			err = os.WriteFile(filepath.Join(blobs, digest.FromBytes(text).Encoded()), text, 0o644)
		}
		if err != nil {
			b.Fatal(err)
		}
		return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(text), Size: int64(len(text))}
	}
	var files []string
	for i, from := range []string{root, sub} {
		plain, packed := filepath.Join(dir, "plain"), filepath.Join(dir, string(rune('a'+i))+".tar.gz")
		run(b, "tar", "-C", from, "--xattrs", "-cf", plain, ".")
		diffID, d, size, err := pack(plain, packed)
		if err == nil {
			err = os.Link(packed, filepath.Join(blobs, d.Encoded()))
		}
		if err != nil {
			b.Fatal(err)
		}
		m.Layers = append(m.Layers, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: d, Size: size})
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, diffID)
		files = append(files, packed)
	}
	m.Config = add(c)
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []ocispec.Descriptor{add(m)}}
	text, err := json.Marshal(index)
	layout := filepath.Join(dir, "layout")
	if err = errors.Join(err, os.WriteFile(filepath.Join(layout, "index.json"), text, 0o644),
		os.WriteFile(filepath.Join(layout, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644)); err != nil {
		b.Fatal(err)
	}
	store, err := image.Open(filepath.Join(dir, "images"))
	if err != nil {
		b.Fatal(err)
	}
	img, err := store.Import(b.Context(), layout, "bench")
	if err != nil {
		b.Fatal(err)
	}
	return store, img, files
}

// pack compresses a file as docker push does, and returns the digests before and after.
func pack(plain, packed string) (diffID, d digest.Digest, size int64, err error) {
	in, err := os.Open(plain)
	if err != nil {
		return "", "", 0, err
	}
	defer in.Close()
	out, err := os.Create(packed)
	if err != nil {
		return "", "", 0, err
	}
	defer out.Close()
	before, after := sha256.New(), sha256.New()
	z := gzip.NewWriter(io.MultiWriter(out, after))
	if _, err = io.Copy(io.MultiWriter(z, before), in); err != nil {
		return "", "", 0, err
	}
	if err = z.Close(); err != nil {
		return "", "", 0, err
	}
	st, err := out.Stat()
	return digest.NewDigest(digest.SHA256, before), digest.NewDigest(digest.SHA256, after), st.Size(), err
}

// BenchmarkLayers compares two gzip layers made into an image disk with tar -xzf of both.
func BenchmarkLayers(b *testing.B) {
	store, img, files := benchLayers(b)
	b.Run("disk", func(b *testing.B) {
		c := cache(b)
		for b.Loop() {
			d, err := c.ImageDisk(b.Context(), store, img, DiskOptions{})
			if err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			d.Close()
			b.StartTimer()
		}
	})
	b.Run("cached", func(b *testing.B) {
		c := cache(b)
		for b.Loop() {
			d, err := c.ImageDisk(b.Context(), store, img, DiskOptions{Cache: true})
			if err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			d.Close()
			if _, err := c.Prune(b.Context()); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
	})
	b.Run("tar", func(b *testing.B) {
		dir := filepath.Join(b.TempDir(), "out")
		for b.Loop() {
			if err := os.Mkdir(dir, 0o755); err != nil {
				b.Fatal(err)
			}
			for _, f := range files {
				run(b, "tar", "-C", dir, "-xzf", f)
			}
			b.StopTimer()
			if err := os.RemoveAll(dir); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
	})
}

// BenchmarkDirectory compares a directory made into an image disk with cp -a of it.
func BenchmarkDirectory(b *testing.B) {
	root, dir := benchRoot(b), b.TempDir()
	b.Run("disk", func(b *testing.B) {
		path := filepath.Join(dir, "disk.erofs")
		for b.Loop() {
			if _, err := BuildDirectory(b.Context(), root, path); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			if err := os.Remove(path); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
	})
	b.Run("cp", func(b *testing.B) {
		path := filepath.Join(dir, "copy")
		for b.Loop() {
			run(b, "cp", "-a", root, path)
			b.StopTimer()
			if err := os.RemoveAll(path); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
	})
}

// BenchmarkCreateWritable makes a container's own disk.
func BenchmarkCreateWritable(b *testing.B) {
	path := filepath.Join(b.TempDir(), "rootfs.ext4")
	for b.Loop() {
		if err := CreateWritable(b.Context(), path, writable("sh")); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := os.Remove(path); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// BenchmarkCachedImageDisk looks up a disk that is there.
func BenchmarkCachedImageDisk(b *testing.B) {
	store, img := imported(b, []imagetest.Entry{reg("a", "b")})
	c := cache(b)
	for b.Loop() {
		d, err := c.ImageDisk(b.Context(), store, img, DiskOptions{Cache: true})
		if err != nil {
			b.Fatal(err)
		}
		if err := d.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
