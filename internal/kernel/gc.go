package kernel

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/filelock"
	"github.com/runcvm/runcvm/internal/garbage"
)

// entryKinds are the beginnings of the names of cache entries.
var entryKinds = []string{"kernel-", "initramfs-", "deb-", "modules-"}

// use marks a cache entry as used now, or returns false where there is none. An entry that was used just now stays at least
// until the boot for which it was looked up.
func use(cacheDir, name string) bool {
	lock, err := lockCache(cacheDir, unix.LOCK_SH)
	if err != nil {
		return false
	}
	defer lock.Close()
	now := time.Now()
	return os.Chtimes(filepath.Join(cacheDir, name), now, now) == nil
}

// lockCache takes the lock of the cache's directory, which is held for some system calls: shared by who uses an entry, exclusive
// by who takes one away.
func lockCache(cacheDir string, how int) (*os.File, error) {
	d, err := os.Open(cacheDir)
	if err != nil {
		return nil, err
	}
	if err := filelock.Wait(context.Background(), d, how); err != nil {
		d.Close()
		return nil, fmt.Errorf("lock %s: %w", cacheDir, err)
	}
	return d, nil
}

// Garbage finds the cache entries that were not used since a time, and what killed processes left. Whoever boots a kernel has
// used its entries just before.
func Garbage(cacheDir string, since time.Time) ([]garbage.Item, error) {
	entries, err := os.ReadDir(cacheDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look into the kernel cache: %w", err)
	}
	var items []garbage.Item
	for _, e := range entries {
		name, path := e.Name(), filepath.Join(cacheDir, e.Name())
		item := garbage.Item{Kind: "kernel cache", Path: path}
		limit := since
		switch {
		case strings.HasPrefix(name, ".tmp-"), strings.HasPrefix(name, lockPrefix):
			item.Why, limit = "its process is gone", time.Now().Add(-staleAfter)
		case isEntry(name):
			item.Why = "not used lately; the next start that needs it makes it again"
		default:
			continue
		}
		info, err := os.Lstat(path)
		if err != nil || !info.ModTime().Before(limit) {
			continue
		}
		item.Size = garbage.Size(path)
		item.Remove = func(context.Context) (bool, error) { return removeEntry(cacheDir, name, limit) }
		if strings.HasPrefix(name, lockPrefix) {
			item.Remove = func(context.Context) (bool, error) { return filelock.RemoveUnlocked(path) }
		}
		items = append(items, item)
	}
	return items, nil
}

func isEntry(name string) bool {
	for _, kind := range entryKinds {
		if key, ok := strings.CutPrefix(name, kind); ok && key != "" && strings.Trim(key, "0123456789abcdef") == "" {
			return true
		}
	}
	return false
}

// removeEntry takes the entry's name away while nobody can look it up, unless it was used meanwhile, and then removes it.
func removeEntry(cacheDir, name string, limit time.Time) (bool, error) {
	lock, err := lockCache(cacheDir, unix.LOCK_EX)
	if err != nil {
		return false, err
	}
	path := filepath.Join(cacheDir, name)
	info, err := os.Lstat(path)
	if err != nil || !info.ModTime().Before(limit) {
		lock.Close()
		return false, nil //nolint:nilerr // it is gone
	}
	if !strings.HasPrefix(name, ".tmp-") {
		// Half of an entry is taken for a leftover, by whoever comes next.
		gone := filepath.Join(cacheDir, ".tmp-gc-"+name)
		if err := os.Rename(path, gone); err != nil {
			lock.Close()
			return false, err
		}
		path = gone
	}
	lock.Close()
	return true, os.RemoveAll(path)
}
