//go:build e2e

package harness

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Derive imports an image made of the Debian image, a layer with the files (mode 0755), and the configuration as change
// leaves it.
func (h *Host) Derive(name string, files map[string]string, change func(*v1.Config)) {
	h.t.Helper()
	base := inLayout(h.t, os.Getenv("RUNCVM_TEST_IMAGE"))
	img := base
	if len(files) > 0 {
		img = must(mutate.AppendLayers(base, layer(h.t, files)))(h.t)
	}
	file := must(img.ConfigFile())(h.t).DeepCopy()
	if change != nil {
		change(&file.Config)
	}
	img = must(mutate.ConfigFile(img, file))(h.t)
	dir := filepath.Join(h.t.TempDir(), "layout")
	path := must(layout.Write(dir, empty.Index))(h.t)
	if err := path.AppendImage(img); err != nil {
		h.t.Fatal(err)
	}
	h.MustRun("import", dir, name)
	h.t.Cleanup(func() { h.MustRun("rmi", name) })
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// inLayout is the image of an OCI layout that has one.
func inLayout(t testing.TB, dir string) v1.Image {
	t.Helper()
	path := must(layout.FromPath(dir))(t)
	index := must(path.ImageIndex())(t)
	manifest := must(index.IndexManifest())(t)
	return must(index.Image(manifest.Manifests[0].Digest))(t)
}

func layer(t testing.TB, files map[string]string) v1.Layer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		h := &tar.Header{Name: name, Mode: 0o755, Size: int64(len(files[name])), Typeflag: tar.TypeReg}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, files[name]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return must(tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil }))(t)
}

// Unpack puts the files of the image that is the OCI layout at the path image into a directory: all, or these members, by their names
// in its layers.
func Unpack(t testing.TB, image, dir string, members ...string) {
	t.Helper()
	files := mutate.Extract(inLayout(t, image))
	defer files.Close()
	cmd := exec.Command("tar", append([]string{"-C", dir, "--numeric-owner", "-xpf", "-"}, members...)...)
	cmd.Stdin = files
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("unpack the image: %v: %s", err, out)
	}
}
