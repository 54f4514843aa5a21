package rootfs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/guestapi"
	"github.com/runcvm/runcvm/internal/rootfs/erofs"
	"github.com/runcvm/runcvm/internal/rootfs/ext4"
)

// MinWritable and MaxWritable bound a writable disk, in bytes.
const (
	MinWritable = ext4.MinSize
	MaxWritable = ext4.MaxSize
)

// WritableOptions describe a container's own disk.
type WritableOptions struct {
	// Size is the disk's, in bytes, a limit to what the container writes; a multiple of 4096 between MinWritable and MaxWritable.
	Size int64
	// UUID is the file system's, lower case and with dashes.
	UUID string
	// Entrypoint is the container's command; at least one string, each of valid UTF-8.
	Entrypoint []string
	// Config is the OCI runtime specification that the agent reads.
	Config []byte
	// Root is what the root directory of the container is like, Disk.Root. The zero value is mode 0755, owned by 0:0.
	Root erofs.Attributes
}

// CreateWritable makes a container's writable disk, a sparse file with ext4, at path, where nothing may be. It holds the
// command, the configuration and the overlay's directories: see guestapi.StageDir. After an error nothing is at path.
func CreateWritable(ctx context.Context, path string, o WritableOptions) (err error) {
	entrypoint, err := encodeEntrypoint(o.Entrypoint)
	if err != nil {
		return err
	}
	if o.Size < MinWritable || o.Size > MaxWritable || o.Size%ext4.BlockSize != 0 {
		return fmt.Errorf("writable disk of %d bytes: the size must be a multiple of %d between %d and %d", o.Size, ext4.BlockSize,
			int64(MinWritable), int64(MaxWritable))
	}
	id, err := uuid.Parse(o.UUID)
	if err != nil || id.String() != o.UUID {
		return fmt.Errorf("writable disk: %q is no UUID in lower case", o.UUID)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("make writable disk: %w", err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("make writable disk: %w", err)
	}
	defer func() {
		err = errors.Join(err, f.Close())
		if err != nil {
			err = fmt.Errorf("make writable disk %s: %w", path, errors.Join(err, os.Remove(path)))
		}
	}()
	if err := f.Truncate(o.Size); err != nil {
		return err
	}
	now := time.Now()
	if err := ext4.Format(f, ext4.Options{Size: o.Size, UUID: id, Time: now, Files: stage(o, entrypoint, now)}); err != nil {
		return err
	}
	slog.DebugContext(ctx, "Injected /"+guestapi.StageDir+"/"+guestapi.EntrypointFile, "path", path, "entrypoint", o.Entrypoint)
	return nil
}

// encodeEntrypoint makes the one JSON array that the agent reads.
func encodeEntrypoint(args []string) ([]byte, error) {
	if len(args) == 0 || args[0] == "" {
		return nil, errors.New("there is no command to run: the image has none, and none was given")
	}
	for i, a := range args {
		if !utf8.ValidString(a) {
			return nil, fmt.Errorf("argument %d of the command, %q, is not valid UTF-8 and can't be passed on", i, a)
		}
		if strings.Contains(a, "\x00") {
			return nil, fmt.Errorf("argument %d of the command, %q, contains a NUL byte and can't be passed on", i, a)
		}
	}
	return json.Marshal(args)
}

// stage is what a fresh disk contains.
func stage(o WritableOptions, entrypoint []byte, now time.Time) []ext4.File {
	// The overlay's root directory is the upper one.
	upper := ext4.File{Name: guestapi.UpperDir, Mode: unix.S_IFDIR | 0o755, Mtime: now}
	if o.Root != (erofs.Attributes{}) {
		upper.Mode, upper.UID, upper.GID = unix.S_IFDIR|o.Root.Mode&0o7777, o.Root.UID, o.Root.GID
		upper.Mtime = time.Unix(o.Root.Mtime, int64(o.Root.MtimeNsec))
	}
	return []ext4.File{
		{Name: guestapi.StageDir, Mode: unix.S_IFDIR | 0o700, Mtime: now, Children: []ext4.File{
			{Name: guestapi.EntrypointFile, Mode: unix.S_IFREG | 0o600, Mtime: now, Data: entrypoint},
			{Name: guestapi.ConfigFile, Mode: unix.S_IFREG | 0o600, Mtime: now, Data: o.Config},
		}},
		upper,
		{Name: guestapi.WorkDir, Mode: unix.S_IFDIR | 0o700, Mtime: now},
	}
}
