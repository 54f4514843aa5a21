package kernel

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/runcvm/runcvm/internal/filelock"
	"github.com/runcvm/runcvm/internal/garbage"
	"github.com/runcvm/runcvm/internal/garbage/garbagetest"
)

// entry makes a cache entry with a file and returns its directory.
func entry(t *testing.T, dir, name string) string {
	t.Helper()
	path, err := cached(t.Context(), dir, name, func(_ context.Context, tmp string) error {
		return os.WriteFile(filepath.Join(tmp, "file"), []byte("x"), 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func age(t *testing.T, path string, by time.Duration) {
	t.Helper()
	then := time.Now().Add(-by)
	if err := os.Chtimes(path, then, then); err != nil {
		t.Fatal(err)
	}
}

func TestGarbageOfTheCacheIsWhatWasNotUsed(t *testing.T) {
	dir := t.TempDir()
	const hex = "0123456789abcdef0123456789abcdef"
	unused, used := entry(t, dir, "kernel-"+hex), entry(t, dir, "initramfs-"+hex)
	age(t, unused, 48*time.Hour)
	age(t, used, 48*time.Hour)
	entry(t, dir, "initramfs-"+hex) // again
	other := filepath.Join(dir, "imported")
	leftover, working := filepath.Join(dir, ".tmp-1"), filepath.Join(dir, ".tmp-2")
	for _, d := range []string{other, leftover, working} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	age(t, other, 48*time.Hour)
	age(t, leftover, 2*staleAfter)
	lock, held := filepath.Join(dir, lockPrefix+"kernel-1"), filepath.Join(dir, lockPrefix+"kernel-2")
	for _, path := range []string{lock, held} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		age(t, path, 2*staleAfter)
	}
	holder, err := filelock.Path(t.Context(), held)
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Close()
	items, err := Garbage(dir, time.Now().Add(-24*time.Hour))
	if err != nil || len(items) != 4 || items[0].Path != lock || items[2].Path != leftover || items[3].Path != unused {
		t.Fatalf("%+v, %v", items, err)
	}
	for _, i := range items {
		if removed, err := i.Remove(t.Context()); removed == (i.Path == held) || err != nil {
			t.Errorf("%s: removed %t, %v", i.Path, removed, err)
		}
	}
	if removed, err := items[0].Remove(t.Context()); removed || err != nil {
		t.Errorf("a lock that is gone: removed %t, %v", removed, err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 4 {
		t.Errorf("left are %v, %v", left, err)
	}
}

func TestOneOfManyAtOnceMakesAnEntry(t *testing.T) {
	dir := t.TempDir()
	var made atomic.Int32
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			path, err := cached(t.Context(), dir, "kernel-00", func(_ context.Context, tmp string) error {
				made.Add(1)
				time.Sleep(10 * time.Millisecond) // the others are to come meanwhile
				return os.WriteFile(filepath.Join(tmp, "file"), []byte("x"), 0o600)
			})
			if err == nil {
				_, err = os.Stat(filepath.Join(path, "file"))
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if made.Load() != 1 {
		t.Errorf("made %d times", made.Load())
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("left are %v, %v", left, err)
	}
}

func TestASlowOneDoesNotKeepOthersWaiting(t *testing.T) {
	was := maxTurn
	maxTurn = 10 * time.Millisecond
	defer func() { maxTurn = was }()
	dir := t.TempDir()
	slow, err := filelock.Path(t.Context(), filepath.Join(dir, lockPrefix+"kernel-00"))
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	entry(t, dir, "kernel-00")
	if _, err := os.Stat(slow.Name()); err != nil {
		t.Errorf("the slow one's lock: %v", err)
	}
}

func TestAnEntryThatIsUsedMeanwhileStays(t *testing.T) {
	dir := t.TempDir()
	path := entry(t, dir, "kernel-00")
	age(t, path, time.Hour)
	items, err := Garbage(dir, time.Now().Add(-time.Minute))
	if err != nil || len(items) != 1 {
		t.Fatalf("%+v, %v", items, err)
	}
	entry(t, dir, "kernel-00")
	if removed, err := items[0].Remove(t.Context()); removed || err != nil {
		t.Errorf("removed %t, %v", removed, err)
	}
	if _, err := os.Stat(filepath.Join(path, "file")); err != nil {
		t.Error(err)
	}
}

func TestWhoLooksAnEntryUpHasItWhileGarbageIsCollected(t *testing.T) {
	dir := t.TempDir()
	stop := garbagetest.Collect(t, func() ([]garbage.Item, error) { return Garbage(dir, time.Now().Add(-time.Minute)) })
	for range 300 {
		path := entry(t, dir, "kernel-00")
		if _, err := os.Stat(filepath.Join(path, "file")); err != nil {
			t.Fatalf("an entry that was looked up is gone: %v", err)
		}
		age(t, path, time.Hour) // now it may go
	}
	stop()
}
