package rootfs

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/runcvm/runcvm/internal/image"
	"github.com/runcvm/runcvm/internal/image/imagetest"
	"github.com/runcvm/runcvm/internal/image/layer"
)

// layersOf are plain layers and the image that has them.
func layersOf(t *testing.T) ([][]byte, image.Image) {
	t.Helper()
	blobs := [][]byte{
		imagetest.Tar(t, imagetest.File("a", "lower"), imagetest.File("hidden", "x")),
		imagetest.Tar(t, imagetest.File("a", "upper"), imagetest.File(".wh.hidden", "")),
	}
	img := image.Image{Name: "streamed:1", Config: imagetest.Config()}
	for _, b := range blobs {
		d := digest.FromBytes(b)
		img.Layers = append(img.Layers, image.Layer{Digest: d, DiffID: d, Size: int64(len(b))})
	}
	return blobs, img
}

func streamed(t *testing.T, c *Cache, img image.Image) *Stream {
	t.Helper()
	s, err := c.Stream(t.Context(), img, "")
	if err != nil || s == nil {
		t.Fatalf("%v, %v", s, err)
	}
	return s
}

func TestADiskIsBuiltAsItsLayersCome(t *testing.T) {
	c, err := OpenCache(filepath.Join(t.TempDir(), "disks"))
	if err != nil {
		t.Fatal(err)
	}
	blobs, img := layersOf(t)
	s := streamed(t, c, img)
	// Another who comes meanwhile leaves it alone.
	if other, err := c.Stream(t.Context(), img, ""); other != nil || err != nil {
		t.Errorf("a second stream: %v, %v", other, err)
	}
	for _, i := range []int{1, 0} { // in whatever order they come
		packed := imagetest.Gzip(t, blobs[i])
		if err := s.ReadLayer(t.Context(), i, img.Layers[i].DiffID, bytes.NewReader(packed)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Finish(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Commit(t.Context()), s.Close()); err != nil {
		t.Fatal(err)
	}
	// Without the store: nothing is built any more.
	d := disk(t, c, nil, img, DiskOptions{Cache: true})
	expect(t, d, "a", "upper")
	if _, err := readFile(t, d.Path, "hidden"); err == nil {
		t.Error("a whiteout of the upper layer hides nothing")
	}
	if list := names(t, c); len(list) != 1 {
		t.Errorf("the cache has %q", list)
	}
	if again, err := c.Stream(t.Context(), img, ""); again != nil || err != nil {
		t.Errorf("a stream of a disk that is there: %v, %v", again, err)
	}
}

func TestAStreamThatFailsLeavesNothing(t *testing.T) {
	c, err := OpenCache(filepath.Join(t.TempDir(), "disks"))
	if err != nil {
		t.Fatal(err)
	}
	blobs, img := layersOf(t)
	s := streamed(t, c, img)
	if err := s.ReadLayer(t.Context(), 0, img.Layers[1].DiffID, bytes.NewReader(blobs[0])); !errors.Is(err, layer.ErrDigest) {
		t.Errorf("another layer than promised: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if list := names(t, c); len(list) != 0 {
		t.Errorf("the cache has %q", list)
	}
	// A layer that does not fit on the others is named by its number.
	blobs[1] = imagetest.Tar(t, imagetest.File("a/below-a-file", ""))
	img.Layers[1].DiffID = digest.FromBytes(blobs[1])
	s = streamed(t, c, img)
	for i, b := range blobs {
		if err := s.ReadLayer(t.Context(), i, img.Layers[i].DiffID, bytes.NewReader(b)); err != nil {
			t.Fatal(err)
		}
	}
	if i, err := s.Finish(t.Context()); i != 1 || err == nil {
		t.Errorf("layer %d: %v", i, err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(c.path(Key(img, "") + ".lock")); err == nil {
		t.Error("the lock's file is left")
	}
}
