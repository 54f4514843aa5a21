package image

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

func TestGarbageIsBlobsOfNoImageAndLeftImports(t *testing.T) {
	s := open(t)
	img, err := s.Import(t.Context(), simple(t, "kept", "x").Dir, "")
	if err != nil {
		t.Fatal(err)
	}
	blob := s.path("blobs", "sha256", "00")
	left := s.path("tmp", "import-1")
	if err := os.WriteFile(blob, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(left, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	download := s.partialPath(digest.FromString("download"))
	if err := os.WriteFile(download, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	going, err := os.Create(s.partialPath(digest.FromString("going on")))
	if err != nil {
		t.Fatal(err)
	}
	defer going.Close()
	if err := unix.Flock(int(going.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	working, err := s.begin(t.Context()) // sweeps what is left, too
	if err != nil {
		t.Fatal(err)
	}
	defer working.close()
	if err := os.MkdirAll(left, 0o700); err != nil {
		t.Fatal(err)
	}
	items, err := s.Garbage(t.Context())
	if err != nil || len(items) != 3 || items[0].Path != blob || items[0].Size == 0 || items[1].Path != download ||
		items[2].Path != left {
		t.Fatalf("%+v, %v", items, err)
	}
	for _, i := range items {
		if removed, err := i.Remove(t.Context()); !removed || err != nil {
			t.Errorf("%s: removed %t, %v", i.Path, removed, err)
		}
	}
	for _, path := range []string{working.dir.Name(), going.Name()} {
		if _, err := os.Stat(path); err != nil {
			t.Errorf("an import or a pull at work has lost what it has: %v", err)
		}
	}
	if f := files(t, s, img); f["a"] != "x" {
		t.Errorf("the image's files: %v", f)
	}
	if items, err = s.Garbage(t.Context()); err != nil || len(items) != 0 {
		t.Errorf("a second look finds %+v, %v", items, err)
	}
}

func TestABlobThatAnImageUsesMeanwhileStays(t *testing.T) {
	s := open(t)
	layout := simple(t, "one", "x").Dir
	img, err := s.Import(t.Context(), layout, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(s.namePath(img.Name), s.path("tmp", "name")); err != nil {
		t.Fatal(err)
	}
	items, err := s.Garbage(t.Context())
	if err != nil || len(items) < len(img.Blobs) {
		t.Fatalf("%+v, %v", items, err)
	}
	if err := os.Rename(s.path("tmp", "name"), s.namePath(img.Name)); err != nil {
		t.Fatal(err)
	}
	for _, i := range items {
		if i.Kind != "blob" {
			continue
		}
		if removed, err := i.Remove(t.Context()); removed || err != nil {
			t.Errorf("%s: removed %t, %v", i.Path, removed, err)
		}
	}
	if f := files(t, s, img); f["a"] != "x" {
		t.Errorf("the image's files: %v", f)
	}
}
