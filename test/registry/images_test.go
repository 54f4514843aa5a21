//go:build e2e

package registry

import (
	"archive/tar"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/compression"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/runcvm/runcvm/test/harness"
)

// must ends the test unless there is a value.
func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// noise is bytes that no compression makes smaller, others for each seed.
func noise(seed uint64, size int) []byte {
	var key [32]byte
	key[0], key[1], key[2] = byte(seed), byte(seed>>8), byte(seed>>16)
	b := make([]byte, size)
	_, _ = rand.NewChaCha8(key).Read(b)
	return b
}

// newLayer makes a layer of one file.
func newLayer(t testing.TB, file string, body []byte, options ...tarball.LayerOption) v1.Layer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: file, Mode: 0o644, Size: int64(len(body)), Typeflag: tar.TypeReg}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(body); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil }
	return must(tarball.LayerFromOpener(open, options...))(t)
}

var zstd = []tarball.LayerOption{tarball.WithCompression(compression.ZStd), tarball.WithMediaType(types.OCILayerZStd)}

// newImage makes an image of an architecture.
func newImage(t testing.TB, architecture string, layers ...v1.Layer) v1.Image {
	t.Helper()
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img = must(mutate.AppendLayers(img, layers...))(t)
	file := must(img.ConfigFile())(t).DeepCopy()
	file.OS, file.Architecture = "linux", architecture
	return must(mutate.ConfigFile(img, file))(t)
}

// hostImage makes an image for this host of layers of noise with the sizes.
func hostImage(t testing.TB, seed uint64, sizes ...int) v1.Image {
	t.Helper()
	var layers []v1.Layer
	for i, size := range sizes {
		layers = append(layers, newLayer(t, fmt.Sprintf("file-%d", i), noise(seed*16+uint64(i), size)))
	}
	return newImage(t, runtime.GOARCH, layers...)
}

// blobs are the digests of an image's layers.
func blobs(t testing.TB, img v1.Image) []string {
	t.Helper()
	var all []string
	for _, l := range must(img.Layers())(t) {
		all = append(all, must(l.Digest())(t).String())
	}
	return all
}

// newHost returns a host that trusts the registry, with the credentials of a user for registries; none without a user.
func newHost(t testing.TB, name, secret string, registries ...string) *harness.Host {
	t.Helper()
	h := harness.NewEmpty(t)
	auths := map[string]any{}
	for _, r := range registries {
		auths[r] = map[string]string{"auth": base64.StdEncoding.EncodeToString([]byte(name + ":" + secret))}
	}
	configure(t, h, map[string]any{"auths": auths})
	return h
}

// configure gives a host a docker configuration of its own, and nothing of the machine's.
func configure(t testing.TB, h *harness.Host, config map[string]any) string {
	t.Helper()
	startServer(t)
	dir := t.TempDir()
	if config != nil {
		if err := os.WriteFile(filepath.Join(dir, "config.json"), must(json.Marshal(config))(t), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	h.Env = append(h.Env, "HOME="+t.TempDir(), "DOCKER_CONFIG="+dir, "XDG_RUNTIME_DIR=", "XDG_CONFIG_HOME=", "REGISTRY_AUTH_FILE=",
		"RUNCVM_REGISTRY_CA_FILE="+server.caFile)
	return dir
}

// loggedIn is a host whose user may pull from the registries.
func loggedIn(t testing.TB, registries ...string) *harness.Host {
	t.Helper()
	return newHost(t, user, password, registries...)
}

// pull pulls, which must succeed, and returns what was said on standard error.
func pull(t testing.TB, h *harness.Host, args ...string) string {
	t.Helper()
	r := h.Run(append([]string{"pull"}, args...)...)
	if r.Code != 0 {
		t.Fatalf("pull %q: exit code %d: %s", args, r.Code, r.Stderr)
	}
	return r.Stderr
}

// refuse pulls, which must fail with words on standard error, and leave no image and no disk.
func refuse(t testing.TB, h *harness.Host, ref string, words ...string) {
	t.Helper()
	r := h.Run("pull", ref)
	if r.Code != 1 || r.Stdout != "" {
		t.Errorf("pull %s: exit code %d, output %q: %s", ref, r.Code, r.Stdout, r.Stderr)
	}
	for _, w := range words {
		if !strings.Contains(r.Stderr, w) {
			t.Errorf("pull %s: standard error does not have %q: %s", ref, w, r.Stderr)
		}
	}
	nothing(t, h)
}

// nothing checks that a host has no images, no blobs and no disks.
func nothing(t testing.TB, h *harness.Host) {
	t.Helper()
	for _, pattern := range []string{"images/names/*", "images/blobs/sha256/*", "images/tmp/*", "disks/*.erofs"} {
		if left := must(filepath.Glob(filepath.Join(h.DataDir, pattern)))(t); len(left) > 0 {
			t.Errorf("left: %q", left)
		}
	}
}

// partials are the partial blobs of a host and their sizes.
func partials(t testing.TB, h *harness.Host) map[string]int64 {
	t.Helper()
	all := map[string]int64{}
	for _, path := range must(filepath.Glob(filepath.Join(h.DataDir, "images", "partial", "*")))(t) {
		if st, err := os.Stat(path); err == nil {
			all["sha256:"+filepath.Base(path)] = st.Size()
		}
	}
	return all
}

// digestOf is the digest of a host's image.
func digestOf(t testing.TB, h *harness.Host, name string) string {
	t.Helper()
	var found string
	for _, path := range must(filepath.Glob(filepath.Join(h.DataDir, "images", "names", "*.json")))(t) {
		var img struct{ Name, Digest string }
		if err := json.Unmarshal(must(os.ReadFile(path))(t), &img); err != nil {
			t.Fatal(err)
		}
		if img.Name == name {
			found = img.Digest
		}
	}
	return found
}

// whole checks that a host has an image under a name: its digest, and its disk.
func whole(t testing.TB, h *harness.Host, name string, img v1.Image) {
	t.Helper()
	if got, want := digestOf(t, h, name), must(img.Digest())(t).String(); got != want {
		t.Errorf("image %s has digest %q instead of %s", name, got, want)
	}
	if disks := must(filepath.Glob(filepath.Join(h.DataDir, "disks", "*.erofs")))(t); len(disks) == 0 {
		t.Error("the image has no disk")
	}
	if left := partials(t, h); len(left) > 0 {
		t.Errorf("partial blobs are left: %v", left)
	}
	for _, d := range blobs(t, img) {
		path := filepath.Join(h.DataDir, "images", "blobs", "sha256", strings.TrimPrefix(d, "sha256:"))
		got, _, err := v1.SHA256(bytes.NewReader(must(os.ReadFile(path))(t)))
		if err != nil || got.String() != d {
			t.Errorf("blob %s has digest %s: %v", d, got, err)
		}
	}
}
