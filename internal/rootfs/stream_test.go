package rootfs

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

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

func TestADiskThatMayHaveLostContentIsBuiltAnew(t *testing.T) {
	c, err := OpenCache(filepath.Join(t.TempDir(), "disks"))
	if err != nil {
		t.Fatal(err)
	}
	blobs, img := layersOf(t)
	build := func() string {
		s := streamed(t, c, img)
		for i, b := range blobs {
			if err := s.ReadLayer(t.Context(), i, img.Layers[i].DiffID, bytes.NewReader(b)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := s.Finish(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(s.Commit(t.Context()), s.Close()); err != nil {
			t.Fatal(err)
		}
		return c.path(Key(img, "") + diskSuffix)
	}
	path := build()
	boot := make([]byte, 64)
	if _, err := unix.Getxattr(path, bootAttribute, boot); err != nil {
		t.Fatalf("the file system of the test's directory keeps no attributes: %v", err)
	}
	// As after a power failure: another boot, and the file's length is all that is left.
	size := func() int64 {
		st, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return st.Size()
	}()
	if err := errors.Join(unix.Setxattr(path, bootAttribute, []byte("another"), 0), os.Truncate(path, 0), os.Truncate(path, size)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.open(t.Context(), Key(img, "")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is opened: %v", err)
	}
	build()
	d := disk(t, c, nil, img, DiskOptions{Cache: true})
	expect(t, d, "a", "upper")
	// Whoever uses it makes it durable.
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if _, err := unix.Getxattr(path, bootAttribute, boot); errors.Is(err, unix.ENODATA) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the disk does not become durable")
		}
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
