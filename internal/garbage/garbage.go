// Package garbage describes what lies on the host and belongs to nobody any more. Each store finds its own; Remove of an item
// looks again, under the store's locks, whether it is still so.
package garbage

import (
	"context"
	"io/fs"
	"path/filepath"
	"syscall"
)

// Item is something that nobody owns.
type Item struct {
	// Kind is what it is, for people: "container", "image disk".
	Kind string
	Path string
	// Size is what it takes on the disk, in bytes.
	Size int64
	// Why says why nobody owns it.
	Why string
	// Remove removes it; false says that somebody owns it by now, or has removed it already.
	Remove func(context.Context) (bool, error)
}

// Size is what a file, or a directory with all below it, takes on the disk, in bytes. What is gone meanwhile takes nothing.
func Size(path string) int64 {
	var size int64
	_ = filepath.WalkDir(path, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // as said: it is gone, or cannot be looked into, and the rest counts
		}
		info, err := d.Info()
		if err != nil {
			return nil //nolint:nilerr // as above
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			const block = 512 // of st_blocks, see stat(2)
			size += st.Blocks * block
		}
		return nil
	})
	return size
}
