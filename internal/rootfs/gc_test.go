package rootfs

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/runcvm/runcvm/internal/garbage"
	"github.com/runcvm/runcvm/internal/garbage/garbagetest"
	"github.com/runcvm/runcvm/internal/image/imagetest"
)

func TestGarbageSparesDisksInUse(t *testing.T) {
	store, one := imported(t, []imagetest.Entry{reg("a", "one")})
	two := add(t, store, "two", []imagetest.Entry{reg("a", "two")})
	c := cache(t)
	used, free := disk(t, c, store, one, DiskOptions{Cache: true}), disk(t, c, store, two, DiskOptions{Cache: true})
	private := disk(t, c, store, one, DiskOptions{})
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	build, lock := filepath.Join(c.dir, "build-1.erofs"), filepath.Join(c.dir, "0.lock")
	for _, path := range []string{build, lock, filepath.Join(c.dir, "unknown")} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	items, err := c.Garbage(t.Context())
	if err != nil || len(items) != 3 {
		t.Fatalf("%+v, %v", items, err)
	}
	for _, i := range items {
		if i.Path != free.Path && i.Path != build && i.Path != lock {
			t.Errorf("%+v is no garbage", i)
		}
		if removed, err := i.Remove(t.Context()); !removed || err != nil {
			t.Errorf("%s: removed %t, %v", i.Path, removed, err)
		}
	}
	expect(t, used, "a", "one")
	expect(t, private, "a", "one")
	expect(t, disk(t, c, store, two, DiskOptions{Cache: true}), "a", "two")
}

func TestADiskIsHadWhileGarbageIsCollected(t *testing.T) {
	store, img := imported(t, []imagetest.Entry{reg("a", "one")})
	c := cache(t)
	stop := garbagetest.Collect(t, func() ([]garbage.Item, error) { return c.Garbage(t.Context()) })
	for range 50 {
		d, err := c.ImageDisk(t.Context(), store, img, DiskOptions{Cache: true})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(d.Path); err != nil {
			t.Errorf("a disk in use is gone: %v", err)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
	stop()
}
