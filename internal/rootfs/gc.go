package rootfs

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/runcvm/runcvm/internal/filelock"
	"github.com/runcvm/runcvm/internal/garbage"
)

// Garbage finds the disks that nobody uses, and what killed processes left.
func (c *Cache) Garbage(ctx context.Context) ([]garbage.Item, error) {
	// Who makes a temporary file holds the lock until that has its own.
	lock, err := filelock.Path(ctx, c.path("lock"))
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	files, err := os.ReadDir(c.dir)
	if err != nil {
		return nil, fmt.Errorf("look for image disks: %w", err)
	}
	var items []garbage.Item
	for _, f := range files {
		item := garbage.Item{Path: c.path(f.Name())}
		switch name := f.Name(); {
		case strings.HasPrefix(name, "build-"), strings.HasPrefix(name, "private-"):
			item.Kind, item.Why = "unfinished disk", "its process is gone"
		case strings.HasSuffix(name, diskSuffix):
			item.Kind, item.Why = "image disk", "no container uses it; the next run of its image builds it again"
			if outlived(item.Path) {
				item.Why = "the layers that it was made of are gone"
			}
		case strings.HasSuffix(name, ".lock"):
			item.Kind, item.Why = "lock", "its process is gone"
		default:
			continue
		}
		unused, err := unlocked(item.Path)
		if err != nil {
			return nil, fmt.Errorf("look for image disks: %w", err)
		}
		if !unused {
			continue
		}
		item.Size = garbage.Size(item.Path)
		item.Remove = func(ctx context.Context) (bool, error) {
			lock, err := filelock.Path(ctx, c.path("lock"))
			if err != nil {
				return false, err
			}
			defer lock.Close()
			return filelock.RemoveUnlocked(item.Path)
		}
		items = append(items, item)
	}
	return items, nil
}

// unlocked says whether a file is there and nobody has a lock on it.
func unlocked(path string) (bool, error) {
	f, err := filelock.TryExisting(path)
	if f == nil || err != nil {
		return false, err
	}
	return true, f.Close()
}
