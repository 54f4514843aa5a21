package rootfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

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
