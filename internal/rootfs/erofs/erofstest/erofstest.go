// Package erofstest reads EROFS disks in tests by a reader that is not ours. Its function is legal at any time.
package erofstest

import (
	"io/fs"
	"os"
	"testing"

	goerofs "github.com/erofs/go-erofs"
)

// Open opens the disk at path until the test's end.
func Open(t testing.TB, path string) fs.FS {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	disk, err := goerofs.Open(f)
	if err != nil {
		t.Fatal(err)
	}
	return disk
}
