package image

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/runcvm/runcvm/internal/image/imagetest"
	"github.com/runcvm/runcvm/internal/image/layer"
)

// pullable is an image of one plain layer, as a registry would describe it.
func pullable(t testing.TB, name, content string) (Pulled, []byte, []byte, []byte) {
	t.Helper()
	blob := imagetest.Tar(t, imagetest.File("a", content))
	d := digest.FromBytes(blob)
	config, manifest := []byte(`{"of":"`+name+`"}`), []byte(`{"manifest":"`+name+`"}`)
	c := imagetest.Config()
	c.RootFS.DiffIDs = []digest.Digest{d}
	return Pulled{Name: name, Manifest: ocispec.Descriptor{Digest: digest.FromBytes(manifest), Size: int64(len(manifest))},
		Config: ocispec.Descriptor{Digest: digest.FromBytes(config), Size: int64(len(config))}, Image: c,
		Layers: []Layer{{Digest: d, DiffID: d, MediaType: ocispec.MediaTypeImageLayer, Size: int64(len(blob))}}}, blob, config, manifest
}

func ingest(t testing.TB, s *Store) *Ingest {
	t.Helper()
	g, err := s.Ingest(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	return g
}

func openBlob(t testing.TB, g *Ingest, d ocispec.Descriptor) *Blob {
	t.Helper()
	b, err := g.Blob(t.Context(), d, nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// from returns what a registry has from an offset on, and notes the offset.
func from(blob []byte, offset *int64) func(int64) (io.ReadCloser, error) {
	return func(at int64) (io.ReadCloser, error) {
		*offset = at
		return io.NopCloser(iotest.HalfReader(bytes.NewReader(blob[at:]))), nil
	}
}

func TestABlobThatBrokeGoesOnWhereItWas(t *testing.T) {
	s := open(t)
	p, blob, config, manifest := pullable(t, "pulled:1", strings.Repeat("content", 1000))
	d := ocispec.Descriptor{Digest: p.Layers[0].Digest, Size: p.Layers[0].Size}

	g := ingest(t, s)
	b := openBlob(t, g, d)
	broken := errors.New("broken")
	r := b.Reader(func(int64) (io.ReadCloser, error) {
		return io.NopCloser(io.MultiReader(bytes.NewReader(blob[:3000]), iotest.ErrReader(broken))), nil
	})
	for range 2 {
		if _, err := io.ReadAll(r); !errors.Is(err, broken) {
			t.Errorf("error %v", err)
		}
	}
	if err := b.Finish(); err == nil {
		t.Error("a blob that broke was finished")
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	g.Close()
	list, err := s.Partials(t.Context())
	if err != nil || len(list) != 1 || list[0].Digest != d.Digest || list[0].Size != 3000 || list[0].InUse {
		t.Fatalf("%+v, %v", list, err)
	}

	g = ingest(t, s)
	b = openBlob(t, g, d)
	if !b.Resumed() || b.Have() != 3000 {
		t.Errorf("%d bytes were there", b.Have())
	}
	var offset int64
	got, err := io.ReadAll(b.Reader(from(blob, &offset)))
	if err != nil || !bytes.Equal(got, blob) || offset != 3000 {
		t.Errorf("%d bytes from %d on, %v", len(got), offset, err)
	}
	if err := errors.Join(b.Finish(), b.Close(), g.Add(t.Context(), p.Config.Digest, config), g.Add(t.Context(), p.Manifest.Digest, manifest)); err != nil {
		t.Fatal(err)
	}
	img, err := g.Commit(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	if f := files(t, s, img); f["a"] != strings.Repeat("content", 1000) {
		t.Errorf("%d files", len(f))
	}
	if list, err := s.Partials(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("partial blobs are left: %v, %v", list, err)
	}
	// Another image with the layer finds it in the store.
	b = openBlob(t, ingest(t, s), d)
	none := func(int64) (io.ReadCloser, error) { return nil, errors.New("it was asked for") }
	if got, err := io.ReadAll(b.Reader(none)); err != nil || !bytes.Equal(got, blob) || b.Resumed() {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if err := errors.Join(b.Finish(), b.Close()); err != nil {
		t.Error(err)
	}
}

func TestABlobIsForOneAtATime(t *testing.T) {
	s := open(t)
	p, blob, _, _ := pullable(t, "x:1", "content")
	d := ocispec.Descriptor{Digest: p.Layers[0].Digest, Size: p.Layers[0].Size}
	one, two := ingest(t, s), ingest(t, s)
	first := openBlob(t, one, d)
	var offset int64
	if _, err := io.ReadAll(first.Reader(from(blob, &offset))); err != nil {
		t.Fatal(err)
	}
	waits, done := make(chan struct{}), make(chan error, 1)
	go func() {
		second, err := two.Blob(t.Context(), d, func() { close(waits) })
		if err != nil {
			done <- err
			return
		}
		if second.Have() != d.Size {
			err = errors.New("what the first got was not found")
		}
		done <- errors.Join(err, second.Close())
	}()
	<-waits
	if list, err := s.Partials(t.Context()); err != nil || len(list) != 1 || !list[0].InUse {
		t.Errorf("%+v, %v", list, err)
	}
	if gone, err := s.RemovePartials(t.Context(), 0); err != nil || len(gone) != 0 {
		t.Errorf("what is in use was removed: %+v, %v", gone, err)
	}
	if err := errors.Join(first.Finish(), first.Close(), <-done); err != nil {
		t.Error(err)
	}
	if gone, err := s.RemovePartials(t.Context(), time.Hour); err != nil || len(gone) != 0 {
		t.Errorf("what is young was removed: %+v, %v", gone, err)
	}
	if gone, err := s.RemovePartials(t.Context(), 0); err != nil || len(gone) != 1 {
		t.Errorf("%+v, %v", gone, err)
	}
}

func TestWrongBlobsAreErrors(t *testing.T) {
	p, blob, _, _ := pullable(t, "x:1", "content")
	for name, c := range map[string]struct {
		there, comes []byte
		size         int64
		want         error
	}{
		"another content":           {nil, bytes.ToUpper(blob), 0, layer.ErrDigest},
		"a beginning that is wrong": {[]byte("wrong"), blob, 0, layer.ErrDigest},
		"too short":                 {nil, blob[:100], 0, io.ErrUnexpectedEOF},
		"too long":                  {nil, append(bytes.Clone(blob), 0), 0, nil},
		"beyond all bounds":         {nil, blob, 1 << 60, nil},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			g := ingest(t, s)
			d := ocispec.Descriptor{Digest: p.Layers[0].Digest, Size: p.Layers[0].Size}
			if c.size != 0 {
				d.Size = c.size
				if _, err := g.Blob(t.Context(), d, nil); err == nil {
					t.Error("no error")
				}
				return
			}
			if c.there != nil {
				if err := os.WriteFile(s.partialPath(d.Digest), c.there, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			b := openBlob(t, g, d)
			var offset int64
			_, err := io.ReadAll(b.Reader(from(c.comes, &offset)))
			if err == nil || c.want != nil && !errors.Is(err, c.want) || b.Finish() == nil {
				t.Errorf("error %v", err)
			}
			if err := errors.Join(b.Discard(), b.Close()); err != nil {
				t.Error(err)
			}
			if left := contents(t, s); len(left) > 1 { // the lock
				t.Errorf("left: %q", left)
			}
		})
	}
}

// A partial blob that was finished is the same file as the blob in the store: nobody may write to it, whatever size he was
// promised.
func TestABlobOfTheStoreIsNeverWrittenTo(t *testing.T) {
	s := open(t)
	p, blob, _, _ := pullable(t, "x:1", "content")
	d := ocispec.Descriptor{Digest: p.Layers[0].Digest, Size: p.Layers[0].Size}
	g := ingest(t, s)
	b := openBlob(t, g, d)
	var offset int64
	if _, err := io.ReadAll(b.Reader(from(blob, &offset))); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(b.Finish(), b.Close()); err != nil {
		t.Fatal(err)
	}
	for _, size := range []int64{d.Size - 1, d.Size + 1} {
		other := openBlob(t, ingest(t, s), ocispec.Descriptor{Digest: d.Digest, Size: size})
		if _, err := io.ReadAll(other.Reader(from(append(bytes.Clone(blob), 'x'), &offset))); err == nil {
			t.Errorf("size %d: no error", size)
		}
		if err := other.Close(); err != nil {
			t.Error(err)
		}
	}
	if got, err := os.ReadFile(g.in.blobPath(d.Digest)); err != nil || !bytes.Equal(got, blob) {
		t.Errorf("the blob is another now: %v", err)
	}
}

func TestASavedImageIsImportedAsTheSame(t *testing.T) {
	s := open(t)
	img, err := s.Import(t.Context(), simple(t, "some:1", "content").Dir, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Tag(t.Context(), "some:1", "registry.example/a/b@"+string(img.Digest), ""); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, ref := range []string{"some:1", "registry.example/a/b@" + string(img.Digest)} {
		for _, path := range []string{filepath.Join(dir, "x.tar"), filepath.Join(dir, "x", "y") + "/"} {
			if err := s.SaveTo(t.Context(), []string{ref}, path); err != nil {
				t.Fatal(err)
			}
			again, err := open(t).Import(t.Context(), path, "")
			if err != nil || again.Digest != img.Digest || again.Name != ref {
				t.Errorf("%s: %s %s, %v", path, again.Name, again.Digest, err)
			}
			if err := os.RemoveAll(path); err != nil {
				t.Fatal(err)
			}
		}
	}
	tree := t.TempDir()
	if _, err := s.Import(t.Context(), tree, "tree"); err != nil {
		t.Fatal(err)
	}
	if err := s.Save(t.Context(), []string{"tree"}, io.Discard); err == nil || !strings.Contains(err.Error(), "imported from a directory") {
		t.Errorf("an image without layers: %v", err)
	}
}

func TestAPulledImageIsFoundByEitherDigest(t *testing.T) {
	s := open(t)
	img, err := s.Import(t.Context(), simple(t, "registry.example/x:1", "content").Dir, "")
	if err != nil {
		t.Fatal(err)
	}
	source := digest.FromString("index")
	if _, err := s.Tag(t.Context(), img.Name, "registry.example/x:2", source); err != nil {
		t.Fatal(err)
	}
	for ref, want := range map[string]bool{
		"registry.example/x@" + string(source): true, "registry.example/x@" + string(img.Digest): true,
		"registry.example/x:1@" + string(source): true, "registry.example/y@" + string(source): false,
	} {
		if got, err := s.Get(t.Context(), ref); (err == nil) != want || want && got.Digest != img.Digest {
			t.Errorf("%s: %s, %v", ref, got.Name, err)
		}
	}
}

// Two Ingests want the same blob. One looks for it again and again while the other makes it the store's: it must never find neither the
// whole one nor the partial one.
func TestABlobIsNotGotAgainWhileItBecomesTheStores(t *testing.T) {
	s := open(t)
	for i := range 100 {
		p, blob, config, manifest := pullable(t, fmt.Sprintf("pulled:%d", i), fmt.Sprint("content ", i))
		d := ocispec.Descriptor{Digest: p.Layers[0].Digest, Size: p.Layers[0].Size}
		first, second := ingest(t, s), ingest(t, s)
		b := openBlob(t, first, d)
		had := make(chan int64, 1)
		go func() {
			var again *Blob
			var err error
			for again == nil && err == nil {
				again, err = second.tryBlob(d)
			}
			if err != nil {
				t.Error(err)
				had <- 0
				return
			}
			had <- again.Have()
			_ = again.Close() // it was only looked at
		}()
		var offset int64
		_, err := io.Copy(io.Discard, b.Reader(from(blob, &offset)))
		err = errors.Join(err, b.Finish(), first.Add(t.Context(), p.Config.Digest, config), first.Add(t.Context(), p.Manifest.Digest, manifest))
		if err != nil {
			t.Fatal(err)
		}
		// The commit comes while the blob is locked, so that the second one's looks fall into it.
		if _, err := first.Commit(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(b.Close(), s.dropPartial(d.Digest)); err != nil {
			t.Fatal(err)
		}
		if n := <-had; n != d.Size {
			t.Fatalf("round %d: the second has %d bytes of %d", i, n, d.Size)
		}
		first.Close()
		second.Close()
	}
}
