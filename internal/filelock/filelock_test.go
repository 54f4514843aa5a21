package filelock

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
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

func TestWhoWaitsHasTheLockAfterItsHolder(t *testing.T) {
	dir := t.TempDir()
	open := func() *os.File {
		f, err := os.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	first, second := open(), open()
	if err := Wait(t.Context(), first, unix.LOCK_SH); err != nil {
		t.Fatal(err)
	}
	if err := Wait(t.Context(), second, unix.LOCK_EX|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
		t.Errorf("not to wait: %v", err)
	}
	taken := make(chan error, 1)
	go func() { taken <- Wait(t.Context(), second, unix.LOCK_EX) }()
	first.Close()
	if err := <-taken; err != nil {
		t.Error(err)
	}
	if err := Wait(t.Context(), open(), unix.LOCK_SH|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
		t.Errorf("another has it too: %v", err)
	}
}
