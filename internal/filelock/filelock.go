// Package filelock takes advisory locks on files (flock(2)), by which the processes of a host share what they keep in directories.
//
// A lock ends with the last file descriptor that has it, so with its process at the latest.
package filelock

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// A lock that somebody else has is tried again and again, since a waiting flock could not be given up: the longer it takes, the less
// often, so that many who wait do not slow down the one that they wait for.
const (
	firstPause = 5 * time.Millisecond
	maxPause   = 500 * time.Millisecond
)

// Take takes a lock on f (unix.LOCK_SH or unix.LOCK_EX), or gives up with the context.
func Take(ctx context.Context, f *os.File, how int) error {
	began := time.Now()
	for {
		err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(min(max(firstPause, time.Since(began)/10), maxPause)):
		}
	}
}

// Wait takes a lock on f as Take does, but blocks in the kernel: it is for locks that are held for moments only. The context is looked at
// when a signal comes.
func Wait(ctx context.Context, f *os.File, how int) error {
	for {
		err := unix.Flock(int(f.Fd()), how)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

// Path takes an exclusive lock on the file at path, which is made when it is missing, and which its holder may remove: see Drop.
func Path(ctx context.Context, path string) (*os.File, error) {
	return lockPath(path, func(f *os.File) error { return Take(ctx, f, unix.LOCK_EX) })
}

// TryPath is Path that returns nil when another has the lock.
func TryPath(path string) (*os.File, error) {
	f, err := lockPath(path, func(f *os.File) error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) })
	if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, unix.EINTR) {
		return nil, nil
	}
	return f, err
}

func lockPath(path string, take func(*os.File) error) (*os.File, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, fmt.Errorf("lock: %w", err)
		}
		err = take(f)
		if err == nil {
			if _, err = SizeAtPath(f); err == nil {
				return f, nil
			}
		}
		f.Close()
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		// It was removed while we waited.
	}
}

// TryExisting takes an exclusive lock on the file or directory at path, and returns nil when another has it or nothing is there.
func TryExisting(path string) (*os.File, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == nil {
		if _, err = SizeAtPath(f); err == nil {
			return f, nil
		}
	}
	f.Close()
	// It may have lost its name to another between the two calls.
	if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, unix.EINTR) || errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return nil, fmt.Errorf("lock %s: %w", path, err)
}

// RemoveUnlocked removes the file at path, and says so; one that another has a lock on stays.
func RemoveUnlocked(path string) (bool, error) {
	f, err := TryExisting(path)
	if f == nil || err != nil {
		return false, err
	}
	defer f.Close()
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	return true, nil
}

// Drop gives a lock of Path back and removes its file.
func Drop(f *os.File) error {
	_ = os.Remove(f.Name()) // what stays is only an empty file
	return f.Close()
}

// SizeAtPath returns the size of an open file in bytes; fs.ErrNotExist when it has lost its name meanwhile.
func SizeAtPath(f *os.File) (int64, error) {
	var have, there unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &have); err != nil {
		return 0, err
	}
	if err := unix.Stat(f.Name(), &there); err != nil {
		return 0, err
	}
	if have.Ino != there.Ino || have.Dev != there.Dev {
		return 0, fs.ErrNotExist
	}
	return have.Size, nil
}
