package image

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
)

func TestAContainerHoldsItsImagesBlobs(t *testing.T) {
	s, err := Open(filepath.Join(t.TempDir(), "images"))
	if err != nil {
		t.Fatal(err)
	}
	img, err := s.Import(t.Context(), simple(t, "held", "content").Dir, "held")
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(s.containers(), "c")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	record := filepath.Join(dir, "image.json")
	if err := s.Hold(t.Context(), img, filepath.Join(t.TempDir(), "image.json")); err == nil {
		t.Error("held where nobody looks")
	}
	if err := s.Hold(t.Context(), img, record); err != nil {
		t.Fatal(err)
	}
	before := contents(t, s)
	if err := s.Remove(t.Context(), "held"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(t.Context(), "held"); !errdefs.IsNotFound(err) {
		t.Errorf("the name is there still: %v", err)
	}
	got, err := Held(record)
	if err != nil || got.Digest != img.Digest || len(files(t, s, got)) == 0 {
		t.Errorf("held %+v, %v", got, err)
	}
	if len(contents(t, s)) != len(before)-1 {
		t.Errorf("left: %v", contents(t, s))
	}
	// As a power failure may leave a record of a file system that renames before it writes: it is in nobody's way.
	damaged := filepath.Join(s.containers(), "d")
	if err := os.MkdirAll(damaged, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(damaged, "image.json"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := s.sweepBlobs(t.Context()); err != nil {
		t.Fatal(err)
	}
	if blobs, err := os.ReadDir(s.path("blobs", "sha256")); err != nil || len(blobs) != 0 {
		t.Errorf("%d blobs are left, %v", len(blobs), err)
	}
	if err := s.Hold(t.Context(), img, record); !errdefs.IsNotFound(err) {
		t.Errorf("an image that was removed is held: %v", err)
	}
}
