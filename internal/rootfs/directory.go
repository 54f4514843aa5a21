package rootfs

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/runcvm/runcvm/internal/rootfs/erofs"
	"github.com/runcvm/runcvm/internal/rootfs/tree"
)

// BuildDirectory makes an image disk of a directory of the host at path, where nothing may be. The file system's UUID is
// random. After an error nothing is at path.
func BuildDirectory(ctx context.Context, dir, path string) (_ erofs.Info, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return erofs.Info{}, fmt.Errorf("make image disk: %w", err)
	}
	defer func() {
		err = errors.Join(err, f.Close())
		if err != nil {
			err = fmt.Errorf("make image disk of %s: %w", dir, errors.Join(err, os.Remove(path)))
		}
	}()
	if err := tree.WriteDirectory(ctx, dir, f); err != nil {
		return erofs.Info{}, err
	}
	return erofs.ReadInfo(f)
}
