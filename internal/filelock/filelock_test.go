package filelock

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestOneHasAPathsLockAndItsFileGoesWithIt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	first, err := Path(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if other, err := TryPath(path); other != nil || err != nil {
		t.Errorf("another has it too: %v, %v", other, err)
	}
	short, cancel := context.WithCancel(t.Context())
	cancel()
	if other, err := Path(short, path); other != nil || !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v, %v", other, err)
	}
	next := make(chan *os.File)
	go func() {
		f, err := Path(t.Context(), path)
		if err != nil {
			t.Error(err)
		}
		next <- f
	}()
	if err := Drop(first); err != nil {
		t.Error(err)
	}
	// Whoever waited has the lock of the file that is there now.
	second := <-next
	if _, err := SizeAtPath(second); err != nil {
		t.Errorf("the next one's file: %v", err)
	}
	if other, err := TryPath(path); other != nil || err != nil {
		t.Errorf("another has it too: %v, %v", other, err)
	}
	if err := Drop(second); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("its file stays: %v", err)
	}
}
