package rootfs

import (
	"io/fs"
	"path/filepath"
	"testing"

	"github.com/runcvm/runcvm/internal/image"
	"github.com/runcvm/runcvm/internal/image/imagetest"
	"github.com/runcvm/runcvm/internal/rootfs/erofs/erofstest"
)

// imported imports an image of these layers into a new store.
func imported(t testing.TB, layers ...[]imagetest.Entry) (*image.Store, image.Image) {
	t.Helper()
	store, err := image.Open(filepath.Join(t.TempDir(), "images"))
	if err != nil {
		t.Fatal(err)
	}
	return store, add(t, store, "demo", layers...)
}

// add imports one more.
func add(t testing.TB, store *image.Store, name string, layers ...[]imagetest.Entry) image.Image {
	t.Helper()
	l := imagetest.New(t)
	var tars [][]byte
	for _, entries := range layers {
		tars = append(tars, imagetest.Tar(t, entries...))
	}
	l.Index(l.Image(tars, nil))
	img, err := store.Import(t.Context(), l.Dir, name)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

var reg = imagetest.File

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
	b, err := fs.ReadFile(erofstest.Open(t, disk), name)
	return string(b), err
}
