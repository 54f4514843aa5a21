package rootfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// lockInterval is how often a lock that somebody else has is tried again: a build takes seconds, and a waiting flock could
// not be given up.
const lockInterval = 10 * time.Millisecond

// flock takes a lock on f, or gives up with the context.
func flock(ctx context.Context, f *os.File, how int) error {
	for {
		err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(lockInterval):
		}
	}
}

// lockPath takes an exclusive lock on the file at path, which is made when it is missing, and which its holder may remove.
func lockPath(ctx context.Context, path string) (*os.File, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, fmt.Errorf("lock: %w", err)
		}
		if err := flock(ctx, f, unix.LOCK_EX); err != nil {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		_, err = sizeAtPath(f)
		if err == nil {
			return f, nil
		}
		f.Close()
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		// It was removed while we waited.
	}
}

// sizeAtPath returns the size of an open file in bytes; fs.ErrNotExist when it has lost its name meanwhile.
func sizeAtPath(f *os.File) (int64, error) {
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

// copySparse copies the file at path to f, which must be empty: by sharing its blocks where the file system can, else
// without its holes.
func copySparse(ctx context.Context, f *os.File, path string) error {
	src, err := os.Open(path)
	if err != nil {
		return err
	}
	defer src.Close()
	if unix.IoctlFileClone(int(f.Fd()), int(src.Fd())) == nil {
		return nil
	}
	st, err := src.Stat()
	if err != nil {
		return err
	}
	for at := int64(0); at < st.Size(); {
		if err := ctx.Err(); err != nil {
			return err
		}
		start, err := unix.Seek(int(src.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break
		}
		if err != nil {
			return fmt.Errorf("copy %s: %w", path, err)
		}
		end, err := unix.Seek(int(src.Fd()), start, unix.SEEK_HOLE)
		if err != nil {
			return fmt.Errorf("copy %s: %w", path, err)
		}
		if _, err := io.Copy(io.NewOffsetWriter(f, start), io.NewSectionReader(src, start, end-start)); err != nil {
			return fmt.Errorf("copy %s: %w", path, err)
		}
		at = end
	}
	return f.Truncate(st.Size())
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
