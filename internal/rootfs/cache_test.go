package rootfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/runcvm/runcvm/internal/image"
	"github.com/runcvm/runcvm/internal/image/imagetest"
	"github.com/runcvm/runcvm/internal/rootfs/tree"
	"github.com/runcvm/runcvm/test/child"
)

// names returns what is in the cache's directory, without its lock.
func names(t *testing.T, c *Cache) []string {
	t.Helper()
	files, err := os.ReadDir(c.dir)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, f := range files {
		if f.Name() != "lock" {
			list = append(list, f.Name())
		}
	}
	return list
}

func disk(t *testing.T, c *Cache, store *image.Store, img image.Image, o DiskOptions) *Disk {
	t.Helper()
	d, err := c.ImageDisk(t.Context(), store, img, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// expect checks a file of a disk, and that fsck accepts the disk.
func expect(t *testing.T, d *Disk, name, want string) {
	t.Helper()
	if got, err := readFile(t, d.Path, name); err != nil || got != want {
		t.Errorf("%s: %q, want %q: %v", name, got, want, err)
	}
	if out, err := exec.Command("fsck.erofs", d.Path).CombinedOutput(); err != nil {
		t.Errorf("fsck.erofs: %v\n%s", err, out)
	}
}

func TestImageDiskHasTheImagesFiles(t *testing.T) {
	big := strings.Repeat("big", 1_000_000)
	store, img := imported(t, []imagetest.Entry{reg("etc/a", "lower"), reg("etc/b", "stays"), reg("big", big)}, []imagetest.Entry{reg("etc/a", "upper"), reg(".wh.big", "")})
	d := disk(t, cache(t), store, img, DiskOptions{Cache: true})
	expect(t, d, "etc/a", "upper")
	expect(t, d, "etc/b", "stays")
	if _, err := readFile(t, d.Path, "big"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a hidden file: %v", err)
	}
	if !regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(d.UUID) {
		t.Errorf("UUID %q", d.UUID)
	}
	list, err := cache(t).List(t.Context())
	if err != nil || len(list) != 0 {
		t.Errorf("an empty cache has %v: %v", list, err)
	}
}

func TestHiddenContentTakesNoSpace(t *testing.T) {
	big := strings.Repeat("big", 1_000_000)
	store, img := imported(t, []imagetest.Entry{reg("a", "a"), reg("big", big)}, []imagetest.Entry{reg(".wh.big", "")})
	c := cache(t)
	disk(t, c, store, img, DiskOptions{Cache: true})
	list, err := c.List(t.Context())
	if err != nil || len(list) != 1 || list[0].Used > 100_000 {
		t.Errorf("the disk takes %+v: %v", list, err)
	}
}

func TestAKeyIsAddedToTheContent(t *testing.T) {
	store, one := imported(t, []imagetest.Entry{reg("a", "one")})
	two := add(t, store, "two", []imagetest.Entry{reg("a", "two")})
	c := cache(t)
	seen := map[string]bool{}
	for _, key := range []string{"", "key", "other"} {
		for img, want := range map[*image.Image]string{&one: "one", &two: "two"} {
			d := disk(t, c, store, *img, DiskOptions{Cache: true, CacheKey: key})
			expect(t, d, "a", want)
			if seen[d.Path] || seen[d.UUID] {
				t.Errorf("image %s with key %q has the disk of another", img.Name, key)
			}
			seen[d.Path], seen[d.UUID] = true, true
			if again := disk(t, c, store, *img, DiskOptions{Cache: true, CacheKey: key}); again.Path != d.Path || again.UUID != d.UUID {
				t.Errorf("image %s with key %q has two disks", img.Name, key)
			}
		}
	}
	// Nobody can make the key of another image out of digests and keys.
	evil := image.Image{Layers: []image.Layer{{DiffID: one.Layers[0].DiffID + "\nkey x"}}}
	if Key(evil, "") == Key(one, "x") || Key(one, "x\nkey y") == Key(one, "x") {
		t.Error("two images have one key")
	}
}

func TestWithoutTheCacheADiskIsAnew(t *testing.T) {
	store, img := imported(t, []imagetest.Entry{reg("a", "content")})
	c := cache(t)
	cached := disk(t, c, store, img, DiskOptions{Cache: true})
	one, two := disk(t, c, store, img, DiskOptions{}), disk(t, c, store, img, DiskOptions{})
	if one.Path == two.Path || one.Path == cached.Path {
		t.Errorf("disks %s, %s and %s", one.Path, two.Path, cached.Path)
	}
	expect(t, one, "a", "content")
	if gone, err := c.Prune(t.Context()); err != nil || len(gone) != 0 {
		t.Errorf("pruned %v in use: %v", gone, err)
	}
	for _, d := range []*Disk{one, two, cached} {
		if err := errors.Join(d.Close(), d.Close()); err != nil {
			t.Error(err)
		}
	}
	if left := names(t, c); len(left) != 1 {
		t.Errorf("the cache has %q", left)
	}
}

func TestPruneSparesWhatIsInUse(t *testing.T) {
	store, one := imported(t, []imagetest.Entry{reg("a", "one")})
	two := add(t, store, "two", []imagetest.Entry{reg("a", "two")})
	c := cache(t)
	used, free := disk(t, c, store, one, DiskOptions{Cache: true}), disk(t, c, store, two, DiskOptions{Cache: true})
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	list, err := c.List(t.Context())
	if err != nil || len(list) != 2 {
		t.Fatalf("list %v: %v", list, err)
	}
	for _, d := range list {
		if d.InUse != (d.Path == used.Path) || d.Used <= 0 || d.Size <= 0 || d.Built.IsZero() {
			t.Errorf("disk %+v", d)
		}
	}
	gone, err := c.Prune(t.Context())
	if err != nil || len(gone) != 1 || gone[0].Path != free.Path {
		t.Errorf("pruned %v: %v", gone, err)
	}
	expect(t, used, "a", "one")
	expect(t, disk(t, c, store, two, DiskOptions{Cache: true}), "a", "two")
}

func TestADamagedDiskIsNotUsed(t *testing.T) {
	store, img := imported(t, []imagetest.Entry{reg("a", "content")})
	for name, damage := range map[string]func(path string) error{
		"cut off": func(path string) error { return os.Truncate(path, 4096) },
		"empty":   func(path string) error { return os.Truncate(path, 0) },
		"overwritten": func(path string) error {
			return errors.Join(os.Remove(path), os.WriteFile(path, make([]byte, 12288), 0o600))
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := cache(t)
			d := disk(t, c, store, img, DiskOptions{Cache: true})
			if err := errors.Join(d.Close(), damage(d.Path)); err != nil {
				t.Fatal(err)
			}
			if _, err := c.ImageDisk(t.Context(), store, img, DiskOptions{Cache: true}); err == nil || !strings.Contains(err.Error(), d.Path) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestAFailedBuildLeavesNothing(t *testing.T) {
	store, img := imported(t, []imagetest.Entry{reg("a", strings.Repeat("content", 10000))})
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	gone := img
	gone.Layers = append([]image.Layer(nil), img.Layers...)
	gone.Layers[0].Digest = "sha256:" + "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	tests := []struct {
		name   string
		ctx    context.Context
		img    image.Image
		limits tree.Limits
	}{
		{"canceled", canceled, img, tree.Limits{}},
		{"layer gone", t.Context(), gone, tree.Limits{}},
		{"limit", t.Context(), img, tree.Limits{Bytes: 1000}},
	}
	for _, tt := range tests {
		for _, cached := range []bool{true, false} {
			t.Run(fmt.Sprint(tt.name, cached), func(t *testing.T) {
				c := cache(t)
				c.Limits = tt.limits
				if _, err := c.ImageDisk(tt.ctx, store, tt.img, DiskOptions{Cache: cached}); err == nil {
					t.Error("no error")
				}
				if left := names(t, c); len(left) != 0 {
					t.Errorf("the cache has %q", left)
				}
			})
		}
	}
}

func TestADirectorysDiskIsSharedWithTheStore(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "root")
	if err := errors.Join(os.Mkdir(dir, 0o1755), os.Chmod(dir, 0o1711), os.WriteFile(filepath.Join(dir, "a"), []byte("content"), 0o644)); err != nil {
		t.Fatal(err)
	}
	store, err := image.Open(filepath.Join(t.TempDir(), "images"))
	if err != nil {
		t.Fatal(err)
	}
	img, err := store.Import(t.Context(), dir, "")
	if err != nil {
		t.Fatal(err)
	}
	c := cache(t)
	d := disk(t, c, store, img, DiskOptions{Cache: true, CacheKey: "x"})
	other, private := disk(t, c, store, img, DiskOptions{Cache: true}), disk(t, c, store, img, DiskOptions{})
	blob, _ := store.Disk(img)
	a, errA := os.Stat(blob)
	for _, d := range []*Disk{d, other, private} {
		expect(t, d, "a", "content")
		if b, errB := os.Stat(d.Path); errA != nil || errB != nil || !os.SameFile(a, b) {
			t.Errorf("the disk was copied: %v, %v", errA, errB)
		}
	}
	if err := store.Remove(t.Context(), img.Name); err != nil {
		t.Fatal(err)
	}
	expect(t, d, "a", "content")
	if err := errors.Join(d.Close(), other.Close(), private.Close()); err != nil {
		t.Fatal(err)
	}
	if gone, err := c.Prune(t.Context()); err != nil || len(gone) != 2 || len(names(t, c)) != 0 {
		t.Errorf("pruned %v, left %q: %v", gone, names(t, c), err)
	}
}

// Processes to kill: this binary again, building the images of a store without end.
const storeVariable, cacheVariable = "RUNCVM_TEST_STORE", "RUNCVM_TEST_CACHE"

func TestMain(m *testing.M) {
	if dir := os.Getenv(storeVariable); dir != "" {
		if err := churn(dir, os.Getenv(cacheVariable)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func churn(storeDir, cacheDir string) error {
	ctx := context.Background()
	store, err := image.Open(storeDir)
	if err != nil {
		return err
	}
	c, err := OpenCache(cacheDir)
	if err != nil {
		return err
	}
	images, err := store.List(ctx)
	if err != nil {
		return err
	}
	child.Begun()
	for i := 0; ; i++ {
		d, err := c.ImageDisk(ctx, store, images[i%len(images)], DiskOptions{Cache: i%3 != 0})
		if err != nil {
			return err
		}
		if err := d.Close(); err != nil {
			return err
		}
		if i%2 == 0 {
			if _, err := c.Prune(ctx); err != nil {
				return err
			}
		}
	}
}

func start(t *testing.T, storeDir string, c *Cache) *exec.Cmd {
	t.Helper()
	return child.Start(t, storeVariable+"="+storeDir, cacheVariable+"="+c.dir)
}

func TestKilledBuildsCountForNothing(t *testing.T) {
	storeDir := filepath.Join(t.TempDir(), "images")
	store, err := image.Open(storeDir)
	if err != nil {
		t.Fatal(err)
	}
	var images []image.Image
	for i := range 2 {
		content := strings.Repeat(fmt.Sprint(i), 3_000_000)
		images = append(images, add(t, store, fmt.Sprint("i", i), []imagetest.Entry{reg("a", content)}, []imagetest.Entry{reg("b", "b")}))
	}
	c := cache(t)
	for i := range 20 {
		one, two := start(t, storeDir, c), start(t, storeDir, c)
		// The moments of the kills are spread over a round of the processes.
		time.Sleep(time.Duration(i) * 2 * time.Millisecond)
		child.Kill(t, one)
		child.Kill(t, two)
		for i, img := range images {
			d := disk(t, c, store, img, DiskOptions{Cache: true})
			expect(t, d, "a", strings.Repeat(fmt.Sprint(i), 3_000_000))
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	if _, err := c.Prune(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, name := range names(t, c) {
		if !strings.HasSuffix(name, ".lock") {
			t.Errorf("%s was left", name)
		}
	}
}

func TestADiskIsBuiltOnceForAll(t *testing.T) {
	store, img := imported(t, []imagetest.Entry{reg("a", strings.Repeat("content", 500_000))})
	c := cache(t)
	var g sync.WaitGroup
	inodes := make([]os.FileInfo, 8)
	for i := range inodes {
		g.Go(func() {
			d, err := c.ImageDisk(t.Context(), store, img, DiskOptions{Cache: true})
			if err != nil {
				t.Error(err)
				return
			}
			defer d.Close()
			if inodes[i], err = d.File().Stat(); err != nil {
				t.Error(err)
			}
		})
	}
	g.Wait()
	for _, st := range inodes {
		if !os.SameFile(st, inodes[0]) {
			t.Error("the disk was built twice")
		}
	}
	if left := names(t, c); len(left) != 1 {
		t.Errorf("the cache has %q", left)
	}
}
