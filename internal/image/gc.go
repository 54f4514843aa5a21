package image

import (
	"context"
	"fmt"
	"os"
	"slices"

	"github.com/runcvm/runcvm/internal/filelock"
	"github.com/runcvm/runcvm/internal/garbage"
)

// Garbage finds blobs that no image uses, downloads that nobody goes on with, and what killed imports left.
func (s *Store) Garbage(ctx context.Context) ([]garbage.Item, error) {
	lock, err := s.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	blobs, err := s.unusedBlobs(ctx)
	if err != nil {
		return nil, err
	}
	var items []garbage.Item
	for _, name := range blobs {
		path := s.path("blobs", "sha256", name)
		items = append(items, garbage.Item{Kind: "blob", Path: path, Size: garbage.Size(path), Why: "no image uses it",
			Remove: func(ctx context.Context) (bool, error) { return s.removeBlob(ctx, name) }})
	}
	partials, err := s.Partials(ctx)
	if err != nil {
		return nil, err
	}
	for _, p := range partials {
		if p.InUse {
			continue
		}
		items = append(items, garbage.Item{Kind: "download", Path: p.Path, Size: garbage.Size(p.Path),
			Why:    "it was not finished; another pull of its image would go on with it",
			Remove: func(context.Context) (bool, error) { return filelock.RemoveUnlocked(p.Path) }})
	}
	dirs, err := os.ReadDir(s.path("tmp"))
	if err != nil {
		return nil, fmt.Errorf("look for unfinished imports: %w", err)
	}
	for _, d := range dirs {
		path := s.path("tmp", d.Name())
		// A lock that is had and given back at once is none that could disturb: imports take theirs under the store's lock.
		f, err := filelock.TryExisting(path)
		if err != nil {
			return nil, fmt.Errorf("look for unfinished imports: %w", err)
		}
		if f != nil {
			f.Close()
			items = append(items, garbage.Item{Kind: "import", Path: path, Size: garbage.Size(path), Why: "its process is gone",
				Remove: func(ctx context.Context) (bool, error) { return s.removeLeftover(ctx, path) }})
		}
	}
	return items, nil
}

func (s *Store) removeBlob(ctx context.Context, name string) (bool, error) {
	lock, err := s.lock(ctx)
	if err != nil {
		return false, err
	}
	defer lock.Close()
	unused, err := s.unusedBlobs(ctx)
	if err != nil || !slices.Contains(unused, name) {
		return false, err
	}
	return true, os.Remove(s.path("blobs", "sha256", name))
}

func (s *Store) removeLeftover(ctx context.Context, path string) (bool, error) {
	lock, err := s.lock(ctx)
	if err != nil {
		return false, err
	}
	defer lock.Close()
	f, err := filelock.TryExisting(path)
	if f == nil || err != nil {
		return false, err
	}
	defer f.Close()
	return true, os.RemoveAll(path)
}
