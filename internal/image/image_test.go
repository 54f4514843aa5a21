package image

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/ulikunitz/xz"

	"github.com/runcvm/runcvm/internal/image/imagetest"
)

func open(t testing.TB) *Store {
	t.Helper()
	s, err := Open(filepath.Join(t.TempDir(), "images"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// simple makes a layout with one image of one file, and a name.
func simple(t testing.TB, name, content string) *imagetest.Layout {
	t.Helper()
	l := imagetest.New(t)
	l.Index(imagetest.Named(l.Image([][]byte{imagetest.Tar(t, imagetest.File("a", content))}, nil), name))
	return l
}

// files returns the files of an image's only tar layer.
func files(t testing.TB, s *Store, img Image) map[string]string {
	t.Helper()
	found := map[string]string{}
	for _, l := range img.Layers {
		r, err := s.OpenLayer(l)
		if err != nil {
			t.Fatal(err)
		}
		tr := tar.NewReader(r)
		for {
			h, err := tr.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(tr)
			if err != nil {
				t.Fatal(err)
			}
			found[h.Name] = string(b)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
	return found
}

// contents returns what is in the store's directory, without locks.
func contents(t testing.TB, s *Store) []string {
	t.Helper()
	var list []string
	err := filepath.WalkDir(s.dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && d.Name() != "lock" {
			list = append(list, strings.TrimPrefix(path, s.dir+"/"))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestNamesAreNormalized(t *testing.T) {
	tests := map[string]string{
		"debian": "debian:latest", "debian:12": "debian:12", "docker.io/library/debian": "debian:latest", "library/debian": "debian:latest",
		"docker.io/u/img:v1": "u/img:v1", "localhost:5000/img": "localhost:5000/img:latest", "localhost:5000/img:v1": "localhost:5000/img:v1",
		"Mixed-Case_1.0": "Mixed-Case_1.0:latest", "": "", "a b": "", "../etc": "", "a//b": "", "/a": "", "a:": "", "a:-x": "", "-rm": "",
		"a/../b": "", "a\x00b": "", strings.Repeat("a", 201): "", "sha256:" + strings.Repeat("0", 64): "sha256:" + strings.Repeat("0", 64),
	}
	for name, want := range tests {
		got, err := NormalizeName(name)
		if got != want || (err != nil) != (want == "") {
			t.Errorf("%q is %q, want %q: %v", name, got, want, err)
		}
		if err != nil && !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%q: error %v is of another kind", name, err)
		}
	}
}

func TestImportFindsTheName(t *testing.T) {
	tests := []struct {
		name        string
		annotations map[string]string
		path, give  string
		want        string
	}{
		{"reference name", map[string]string{ocispec.AnnotationRefName: "debian"}, "x", "", "debian:latest"},
		{"reference name with a tag", map[string]string{ocispec.AnnotationRefName: "debian:12"}, "x", "", "debian:12"},
		{"reference name that is a tag", map[string]string{ocispec.AnnotationRefName: "12.1"}, "/images/debian", "", "debian:12.1"},
		{"reference name latest", map[string]string{ocispec.AnnotationRefName: "latest"}, "/images/debian.tar.gz", "", "debian:latest"},
		{"containerd's name", map[string]string{ocispec.AnnotationRefName: "12", "io.containerd.image.name": "docker.io/library/debian:12"}, "x", "", "debian:12"},
		{"path", nil, "/images/My Debian (12).oci/", "", "My-Debian-12:latest"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got, err := nameOfLayout(tt.annotations, tt.path); err != nil || got != tt.want {
				t.Errorf("name %q, want %q: %v", got, tt.want, err)
			}
		})
	}
	if _, err := nameOfPath("/"); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("name of /: %v", err)
	}
}

func TestImportOfEveryForm(t *testing.T) {
	l := simple(t, "form", "content")
	plain := imagetest.Tar(t, imagetest.File("a", "content"))
	write := func(name string, b []byte) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	var zs, xzs bytes.Buffer
	zw, err := zstd.NewWriter(&zs)
	if err == nil {
		_, err = zw.Write(plain)
		err = errors.Join(err, zw.Close())
	}
	xw, xerr := xz.NewWriter(&xzs)
	if err = errors.Join(err, xerr); err == nil {
		_, err = xw.Write(plain)
		err = errors.Join(err, xw.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	layoutTar := tarOf(t, l.Dir)
	tests := []struct {
		name, path, want string
	}{
		{"layout", l.Dir, "form:latest"},
		{"layout in a tar", write("layout.tar", layoutTar), "form:latest"},
		{"layout in a compressed tar", write("layout.tar.gz", imagetest.Gzip(t, layoutTar)), "form:latest"},
		{"docker archive", write("saved.tar", dockerArchive(t, false, "saved:1")), "saved:1"},
		{"docker archive, compressed", write("saved.tgz", imagetest.Gzip(t, dockerArchive(t, false, "saved:1"))), "saved:1"},
		{"docker archive with links", write("linked.tar", dockerArchive(t, true, "linked")), "linked:latest"},
		{"docker archive of crane's", write("crane.tar", craneArchive(t, "saved:2")), "saved:2"},
		{"docker archive without a name", write("plain-archive.tar", dockerArchive(t, false)), "plain-archive:latest"},
		{"root tar", write("root.tar", plain), "root:latest"},
		{"root tar, gzip", write("root-gz.tar.gz", imagetest.Gzip(t, plain)), "root-gz:latest"},
		{"root tar, zstd", write("root-zs.tar.zst", zs.Bytes()), "root-zs:latest"},
		{"root tar, xz", write("root-xz.txz", xzs.Bytes()), "root-xz:latest"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := open(t)
			img, err := s.Import(t.Context(), tt.path, "")
			if err != nil {
				t.Fatal(err)
			}
			if img.Name != tt.want {
				t.Errorf("name %q, want %q", img.Name, tt.want)
			}
			got, err := s.Get(t.Context(), tt.want)
			if err != nil || got.Digest != img.Digest {
				t.Fatalf("get %q: %v, %v", tt.want, got.Digest, err)
			}
			if f := files(t, s, got); f["a"] != "content" || len(f) != 1 {
				t.Errorf("files %q", f)
			}
			if img, err = s.Import(t.Context(), tt.path, "other:tag"); err != nil || img.Name != "other:tag" {
				t.Errorf("import by another name: %q, %v", img.Name, err)
			}
		})
	}
}

// tarOf packs a directory's files.
func tarOf(t testing.TB, dir string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := errors.Join(w.AddFS(os.DirFS(dir)), w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// dockerArchive is what docker save writes, before version 25; with links, of a layer that images have in common.
func dockerArchive(t testing.TB, links bool, tags ...string) []byte {
	t.Helper()
	plain := imagetest.Tar(t, imagetest.File("a", "content"))
	c := imagetest.Config()
	c.RootFS.DiffIDs = []digest.Digest{digest.FromBytes(plain)}
	config, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	id, file := strings.Repeat("ab", 32), digest.FromBytes(config).Encoded()+".json"
	m, err := json.Marshal([]dockerImage{{Config: file, RepoTags: tags, Layers: []string{id + "/layer.tar"}}})
	if err != nil {
		t.Fatal(err)
	}
	entries := []imagetest.Entry{imagetest.File(file, string(config))}
	if links {
		other := strings.Repeat("cd", 32)
		link := imagetest.Entry{Header: tar.Header{Name: id + "/layer.tar", Linkname: "../" + other + "/layer.tar", Typeflag: tar.TypeSymlink}}
		entries = append(entries, imagetest.File(other+"/layer.tar", string(plain)), link)
	} else {
		entries = append(entries, imagetest.File(id+"/layer.tar", string(plain)))
	}
	return imagetest.Tar(t, append(entries, imagetest.File("manifest.json", string(m)))...)
}

// craneArchive is what crane, ko and others write by go-containerregistry: layers are compressed, the configuration's name is its digest.
func craneArchive(t testing.TB, tag string) []byte {
	t.Helper()
	plain := imagetest.Tar(t, imagetest.File("a", "content"))
	c := imagetest.Config()
	c.RootFS.DiffIDs = []digest.Digest{digest.FromBytes(plain)}
	config, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	zipped := imagetest.Gzip(t, plain)
	file, name := digest.FromBytes(zipped).Encoded()+".tar.gz", digest.FromBytes(config).String()
	m, err := json.Marshal([]dockerImage{{Config: name, RepoTags: []string{tag}, Layers: []string{file}}})
	if err != nil {
		t.Fatal(err)
	}
	return imagetest.Tar(t, imagetest.File(name, string(config)), imagetest.File(file, string(zipped)), imagetest.File("manifest.json", string(m)))
}

func TestImportOfADirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "rootfs")
	if err := errors.Join(os.MkdirAll(filepath.Join(dir, "etc"), 0o755), os.WriteFile(filepath.Join(dir, "etc", "a"), []byte("content"), 0o644)); err != nil {
		t.Fatal(err)
	}
	s := open(t)
	img, err := s.Import(t.Context(), dir, "")
	if err != nil {
		t.Fatal(err)
	}
	path, ok := s.Disk(img)
	if !ok || img.Name != "rootfs:latest" {
		t.Fatalf("image %q, a disk: %v", img.Name, ok)
	}
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
}

func TestImportPicksThePlatform(t *testing.T) {
	l := imagetest.New(t)
	content := func(text string) [][]byte { return [][]byte{imagetest.Tar(t, imagetest.File("a", text))} }
	other := l.Image(content("arm"), func(c *ocispec.Image, _ *ocispec.Manifest) { c.Architecture = "arm64" })
	mine := l.Image(content("mine"), nil)
	second := l.Image(content("second"), nil)
	goarch := imagetest.Config().Architecture
	index := func(d ...ocispec.Descriptor) ocispec.Descriptor {
		return l.JSON(ocispec.MediaTypeImageIndex, ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: d})
	}
	attestation := imagetest.For(l.JSON(ocispec.MediaTypeImageManifest, struct{}{}), "unknown", "unknown")
	tests := []struct {
		name  string
		index []ocispec.Descriptor
		give  string
		want  string // what is in the file; or a part of the error
	}{
		{"the only one", []ocispec.Descriptor{mine}, "", "mine"},
		{"by its platform", []ocispec.Descriptor{imagetest.For(other, "linux", "arm64"), imagetest.For(mine, "linux", goarch)}, "", "mine"},
		{"in a nested index", []ocispec.Descriptor{index(index(imagetest.For(other, "linux", "arm64"), imagetest.For(mine, "linux", goarch), attestation))}, "", "mine"},
		{"beside attestations", []ocispec.Descriptor{imagetest.For(mine, "linux", goarch), attestation}, "", "mine"},
		{"by name", []ocispec.Descriptor{imagetest.Named(mine, "one"), imagetest.Named(second, "two")}, "two", "second"},
		{"the same twice", []ocispec.Descriptor{imagetest.Named(mine, "one"), imagetest.Named(mine, "two")}, "x", "mine"},
		{"several without a name", []ocispec.Descriptor{imagetest.Named(mine, "one"), imagetest.Named(second, "two")}, "", "(one)"},
		{"for another platform", []ocispec.Descriptor{imagetest.For(other, "linux", "arm64")}, "", "there are linux/arm64"},
		{"for another platform by its configuration", []ocispec.Descriptor{other}, "", "linux/arm64, not for"},
		{"none", nil, "", "there is no image"},
		{"too deep", []ocispec.Descriptor{index(index(index(index(index(mine)))))}, "", "nested deeper"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l.Index(tt.index...)
			s := open(t)
			img, err := s.Import(t.Context(), l.Dir, tt.give)
			if err != nil {
				if !strings.Contains(err.Error(), tt.want) {
					t.Errorf("error %v, want one with %q", err, tt.want)
				}
				return
			}
			if f := files(t, s, img); f["a"] != tt.want {
				t.Errorf("took %q, want %q", f["a"], tt.want)
			}
		})
	}
}

func TestImagesAreFoundByNameAndDigest(t *testing.T) {
	s := open(t)
	img, err := s.Import(t.Context(), simple(t, "one", "1").Dir, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Import(t.Context(), simple(t, "two:v2", "2").Dir, ""); err != nil {
		t.Fatal(err)
	}
	hex := img.Digest.Encoded()
	for _, ref := range []string{"one", "one:latest", "docker.io/library/one", string(img.Digest), hex, hex[:12], "sha256:" + hex[:12]} {
		if got, err := s.Get(t.Context(), ref); err != nil || got.Digest != img.Digest {
			t.Errorf("get %q: %v, %v", ref, got.Name, err)
		}
	}
	for _, ref := range []string{"two", "three", "sha256:", "", "..", strings.Repeat("f", 64)} {
		if _, err := s.Get(t.Context(), ref); !errors.Is(err, errdefs.ErrNotFound) || !strings.Contains(err.Error(), "one:latest, two:v2") {
			t.Errorf("get %q: %v", ref, err)
		}
	}
	if _, err := open(t).Get(t.Context(), "one"); !errors.Is(err, errdefs.ErrNotFound) || !strings.Contains(err.Error(), "runcvm import") {
		t.Errorf("get from an empty store: %v", err)
	}
}

func TestRemoveTakesOnlyWhatNobodyElseUses(t *testing.T) {
	s := open(t)
	shared := imagetest.Tar(t, imagetest.File("shared", "s"))
	var images []Image
	for _, name := range []string{"one", "two"} {
		l := imagetest.New(t)
		l.Index(l.Image([][]byte{shared, imagetest.Tar(t, imagetest.File("own", name))}, nil))
		img, err := s.Import(t.Context(), l.Dir, name)
		if err != nil {
			t.Fatal(err)
		}
		images = append(images, img)
	}
	if err := s.Remove(t.Context(), "one"); err != nil {
		t.Fatal(err)
	}
	if f := files(t, s, images[1]); f["shared"] != "s" || f["own"] != "two" {
		t.Errorf("files of the other image: %q", f)
	}
	if _, err := s.OpenLayer(images[0].Layers[1]); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("layer of the removed image: %v", err)
	}
	if err := s.Remove(t.Context(), "one"); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("remove again: %v", err)
	}
	if err := s.Remove(t.Context(), images[1].Digest.Encoded()[:10]); err != nil {
		t.Error(err)
	}
	if left := contents(t, s); len(left) > 0 {
		t.Errorf("the store has %q", left)
	}
}

func TestAnImportUnderTheSameNameReplaces(t *testing.T) {
	s := open(t)
	if _, err := s.Import(t.Context(), simple(t, "x", "old").Dir, ""); err != nil {
		t.Fatal(err)
	}
	before := contents(t, s)
	img, err := s.Import(t.Context(), simple(t, "x", "new").Dir, "")
	if err != nil {
		t.Fatal(err)
	}
	if f := files(t, s, img); f["a"] != "new" {
		t.Errorf("files %q", f)
	}
	after := contents(t, s)
	if len(after) != len(before) || slices.Equal(after, before) {
		t.Errorf("the store had %q, now %q", before, after)
	}
}
