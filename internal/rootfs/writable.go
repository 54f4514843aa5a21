package rootfs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/guestapi"
	"github.com/runcvm/runcvm/internal/rootfs/erofs"
)

// MinWritable is the smallest writable disk, in bytes: with less, mke2fs makes no journal.
const MinWritable = 16 << 20

// WritableOptions describe a container's own disk.
type WritableOptions struct {
	// Size is the disk's, in bytes, a limit to what the container writes; a multiple of 4096 of at least MinWritable.
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
	if o.Size < MinWritable || o.Size%4096 != 0 {
		return fmt.Errorf("writable disk of %d bytes: the size must be a multiple of 4096 and at least %d", o.Size, MinWritable)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("make writable disk: %w", err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("make writable disk %s: %w", path, errors.Join(err, os.Remove(path)))
		}
	}()
	defer func() { err = errors.Join(err, f.Close()) }()
	stage, err := os.MkdirTemp(filepath.Dir(path), ".stage-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(stage)) }()
	if err := fillStage(stage, entrypoint, o); err != nil {
		return err
	}
	if err := format(ctx, f, stage, o); err != nil {
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

// fillStage writes what the fresh file system is to contain.
func fillStage(stage string, entrypoint []byte, o WritableOptions) error {
	dir := filepath.Join(stage, guestapi.StageDir)
	upper := filepath.Join(stage, guestapi.UpperDir)
	root := o.Root
	if root == (erofs.Attributes{}) {
		root.Mode = 0o755
	}
	// The overlay's root directory is the upper one.
	atime := unix.Timespec{Sec: root.Mtime, Nsec: int64(root.MtimeNsec)}
	err := errors.Join(
		os.Mkdir(dir, 0o700),
		os.Mkdir(filepath.Join(stage, guestapi.WorkDir), 0o700),
		os.Mkdir(upper, 0o700),
		os.WriteFile(filepath.Join(dir, guestapi.EntrypointFile), entrypoint, 0o600),
		os.WriteFile(filepath.Join(dir, guestapi.ConfigFile), o.Config, 0o600),
		os.Chown(upper, int(root.UID), int(root.GID)),
		unix.Chmod(upper, root.Mode&0o7777),
		unix.UtimesNanoAt(unix.AT_FDCWD, upper, []unix.Timespec{atime, atime}, 0),
	)
	if err != nil {
		return fmt.Errorf("stage: %w", err)
	}
	return nil
}

// features are all that the file system has: nothing is left to the version or configuration of the host's mke2fs.
// metadata_csum is what lets mke2fs leave inode tables unwritten.
const features = "none,has_journal,extent,64bit,flex_bg,metadata_csum,dir_index,dir_nlink,extra_isize,ext_attr,filetype," +
	"huge_file,large_file,sparse_super"

// format makes the file system in memory and copies what is not empty: mke2fs waits for the disk several times, which on a busy
// one takes longer than all other work of a start. Nothing else of a container is forced to the disk either.
func format(ctx context.Context, f *os.File, stage string, o WritableOptions) error {
	fd, err := unix.MemfdCreate("rootfs", unix.MFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("make a file in memory: %w", err)
	}
	mem := os.NewFile(uintptr(fd), "rootfs in memory")
	defer mem.Close()
	if err := mem.Truncate(o.Size); err != nil {
		return fmt.Errorf("make a file in memory: %w", err)
	}
	if err := mke2fs(ctx, mem, stage, o.UUID); err != nil {
		return err
	}
	if err := f.Truncate(o.Size); err != nil {
		return err
	}
	return copyData(f, mem)
}

// copyData copies the parts of a sparse file that are not holes to their places in an empty file.
func copyData(to, from *os.File) error {
	for end := int64(0); ; {
		start, err := unix.Seek(int(from.Fd()), end, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // only a hole follows
		}
		if err != nil {
			return fmt.Errorf("find data: %w", err)
		}
		if end, err = unix.Seek(int(from.Fd()), start, unix.SEEK_HOLE); err != nil {
			return fmt.Errorf("find the data's end: %w", err)
		}
		if _, err := io.Copy(io.NewOffsetWriter(to, start), io.NewSectionReader(from, start, end-start)); err != nil {
			return fmt.Errorf("copy the file system: %w", err)
		}
	}
}

// mke2fs makes the file system. With lazy tables and large groups it writes some 200 KiB whatever the size.
func mke2fs(ctx context.Context, f *os.File, stage, uuid string) error {
	program, err := exec.LookPath("mke2fs")
	if err != nil {
		// Where root's PATH lacks it, Debian has it here.
		program = "/usr/sbin/mke2fs"
	}
	cmd := exec.CommandContext(ctx, program, "-q", "-F", "-t", "ext4", "-b", "4096", "-I", "256", "-m", "0", "-G", "4096",
		"-U", uuid, "-d", stage, "-O", features, "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", "/proc/self/fd/3")
	cmd.ExtraFiles = []*os.File{f}
	// A configuration that is not there: none of the host's changes what the guest gets.
	cmd.Env = []string{"MKE2FS_CONFIG=/nonexistent", "LC_ALL=C"}
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("mke2fs: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}
