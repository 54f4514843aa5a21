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

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/guestapi"
)

// MinWritable and MaxWritable bound a writable disk, in bytes: with less, mke2fs makes no journal.
const (
	MinWritable = 16 << 20
	MaxWritable = 16 << 40

	writableBlock = 4096
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
}

// CreateWritable makes a container's writable disk, a sparse file with ext4, at path, where nothing may be. It holds the
// command and the configuration: see guestapi.StageDir. After an error nothing is at path.
func CreateWritable(ctx context.Context, path string, o WritableOptions) (err error) {
	entrypoint, err := encodeEntrypoint(o.Entrypoint)
	if err != nil {
		return err
	}
	if o.Size < MinWritable || o.Size > MaxWritable || o.Size%writableBlock != 0 {
		return fmt.Errorf("writable disk of %d bytes: the size must be a multiple of %d between %d and %d", o.Size, writableBlock,
			int64(MinWritable), int64(MaxWritable))
	}
	if id, err := uuid.Parse(o.UUID); err != nil || id.String() != o.UUID {
		return fmt.Errorf("writable disk: %q is no UUID in lower case", o.UUID)
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
	tree, err := os.MkdirTemp(filepath.Dir(path), ".tree-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tree)) }()
	stage := filepath.Join(tree, guestapi.StageDir)
	err = errors.Join(os.Mkdir(stage, 0o700),
		os.WriteFile(filepath.Join(stage, guestapi.EntrypointFile), entrypoint, 0o600),
		os.WriteFile(filepath.Join(stage, guestapi.ConfigFile), o.Config, 0o600))
	if err != nil {
		return err
	}
	if err := format(ctx, f, tree, o); err != nil {
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

// format makes the file system in memory and copies what is not empty: mke2fs waits for the disk four times, which on a busy
// one takes longer than all other work of a start.
func format(ctx context.Context, f *os.File, tree string, o WritableOptions) error {
	fd, err := unix.MemfdCreate("rootfs", unix.MFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("make a file in memory: %w", err)
	}
	mem := os.NewFile(uintptr(fd), "rootfs in memory")
	defer mem.Close()
	if err := mem.Truncate(o.Size); err != nil {
		return fmt.Errorf("make a file in memory: %w", err)
	}
	if err := mke2fs(ctx, mem, tree, o.UUID); err != nil {
		return err
	}
	if err := f.Truncate(o.Size); err != nil {
		return err
	}
	return copyData(f, mem)
}

// features are all that the file system has: nothing is left to the version or configuration of the host's mke2fs.
// metadata_csum is what lets mke2fs leave inode tables unwritten.
const features = "none,has_journal,extent,64bit,flex_bg,metadata_csum,dir_index,dir_nlink,extra_isize,ext_attr,filetype," +
	"huge_file,large_file,sparse_super2"

// mke2fs makes the file system. With lazy tables and large groups it writes some 90 KiB for 10 GiB, 2 MiB for 1 TiB.
func mke2fs(ctx context.Context, f *os.File, tree, uuid string) error {
	program, err := exec.LookPath("mke2fs")
	if err != nil {
		// Where root's PATH lacks it, Debian has it here.
		program = "/usr/sbin/mke2fs"
	}
	cmd := exec.CommandContext(ctx, program, "-q", "-F", "-t", "ext4", "-b", fmt.Sprint(writableBlock), "-I", "256", "-m", "0",
		"-G", "4096", "-U", uuid, "-d", tree, "-O", features, "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", "/proc/self/fd/3")
	cmd.ExtraFiles = []*os.File{f}
	// A configuration that is not there: none of the host's changes what the guest gets.
	cmd.Env = []string{"MKE2FS_CONFIG=/nonexistent", "LC_ALL=C"}
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if errors.Is(err, os.ErrNotExist) {
		return errors.New("mke2fs is missing: install e2fsprogs")
	}
	if err != nil {
		return fmt.Errorf("mke2fs: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
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
