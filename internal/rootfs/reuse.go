package rootfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/guestapi"
)

// Restaged is a writable disk that is ready for another boot.
type Restaged struct {
	// UUID is the file system's, lower case and with dashes, as its superblock has it now.
	UUID string
	// Repaired says that the file system was not as an orderly end leaves it.
	Repaired bool
}

// RestageWritable makes a container's used disk ready for another boot: it is checked, as e2fsck does at a boot, and the
// command and the configuration are written afresh. A guest has written the disk, so all of that is done by programs without
// privileges (see sandboxed), and no kernel mounts it. Of o, Size and UUID are not used.
func RestageWritable(ctx context.Context, path string, o WritableOptions) (r Restaged, err error) {
	entrypoint, err := encodeEntrypoint(o.Entrypoint)
	if err != nil {
		return r, err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("use the writable disk %s again: %w", path, err)
		}
	}()
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return r, err
	}
	defer f.Close()
	release, err := lend(f)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, release()) }()
	if r.Repaired, err = fsck(ctx, f); err != nil {
		return r, err
	}
	files := map[string][]byte{guestapi.EntrypointFile: entrypoint, guestapi.ConfigFile: o.Config}
	if err := stage(ctx, f, files); err != nil {
		return r, err
	}
	r.UUID, err = uuidOfDisk(f)
	slog.DebugContext(ctx, "Injected /"+guestapi.StageDir+"/"+guestapi.EntrypointFile, "path", path, "entrypoint", o.Entrypoint,
		"repaired", r.Repaired)
	return r, err
}

// Exit codes of e2fsck(8); from fsckUncorrected on, it could not do its work.
const (
	fsckCorrected   = 1
	fsckReboot      = 2
	fsckUncorrected = 4
)

// fsck checks the file system and mends what can be mended without a loss.
func fsck(ctx context.Context, f *os.File) (repaired bool, err error) {
	r, err := sandboxed(ctx, f, nil, "e2fsck", "-p", diskPath)
	switch {
	case err != nil:
		return false, err
	case r.code >= fsckUncorrected:
		return false, fmt.Errorf("its file system is damaged; \"e2fsck -f\" by hand may mend it (e2fsck -p: exit code %d): %s",
			r.code, r.said)
	}
	return r.code&(fsckCorrected|fsckReboot) != 0, nil
}

// stage writes files into the stage directory, in place of those that are there. debugfs does not say by its exit code
// whether it did, so what it wrote is read back.
func stage(ctx context.Context, f *os.File, files map[string][]byte) error {
	dir, err := sandboxed(ctx, f, nil, "debugfs", "-R", "stat /"+guestapi.StageDir, diskPath)
	if err != nil {
		return err
	}
	script := &bytes.Buffer{}
	// Of a name that there is, debugfs' mkdir leaves half a directory behind.
	if len(dir.out) == 0 {
		fmt.Fprintf(script, "mkdir /%s\n", guestapi.StageDir)
	} else if !bytes.Contains(dir.out, []byte("Type: directory")) {
		return fmt.Errorf("/%s of it is no directory", guestapi.StageDir)
	}
	var sources []*os.File
	defer func() {
		for _, s := range sources {
			s.Close()
		}
	}()
	var names []string
	for name, content := range files {
		source, err := inMemory(content)
		if err != nil {
			return err
		}
		names, sources = append(names, name), append(sources, source)
		to := path.Join("/", guestapi.StageDir, name)
		fmt.Fprintf(script, "rm %s\nwrite %s %s\n", to, inputPath(len(sources)-1), to)
		for field, value := range map[string]string{"mode": "0100600", "uid": "0", "gid": "0"} {
			fmt.Fprintf(script, "set_inode_field %s %s %s\n", to, field, value)
		}
	}
	commands, err := inMemory(script.Bytes())
	if err != nil {
		return err
	}
	sources = append(sources, commands)
	done, err := sandboxed(ctx, f, sources, "debugfs", "-w", "-f", inputPath(len(sources)-1), diskPath)
	if err != nil {
		return err
	}
	for _, name := range names {
		got, err := read(ctx, f, path.Join("/", guestapi.StageDir, name))
		if err != nil {
			return err
		}
		if !bytes.Equal(got, files[name]) {
			return fmt.Errorf("/%s/%s cannot be written to it; is it full? debugfs says: %s", guestapi.StageDir, name, done.said)
		}
	}
	return nil
}

// read returns a file of the disk.
func read(ctx context.Context, f *os.File, name string) ([]byte, error) {
	r, err := sandboxed(ctx, f, nil, "debugfs", "-R", "cat "+name, diskPath)
	return r.out, err
}

// inMemory returns a file that anybody can read, if they get it.
func inMemory(content []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("stage", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make a file in memory: %w", err)
	}
	f := os.NewFile(uintptr(fd), "file in memory")
	if _, err := f.Write(content); err != nil {
		return nil, errors.Join(fmt.Errorf("make a file in memory: %w", err), f.Close())
	}
	return f, nil
}

// Where ext4's superblock has what is read of it (Documentation/filesystems/ext4/super.rst).
const (
	superblockOffset = 1024
	superblockUUID   = superblockOffset + 0x68
	superblockMagic  = superblockOffset + 0x38
	extMagic         = 0xef53
)

// uuidOfDisk reads what the guest finds the disk by. Any 16 bytes will do: they are compared, and nothing else.
func uuidOfDisk(f io.ReaderAt) (string, error) {
	var magic [2]byte
	var id uuid.UUID
	if _, err := f.ReadAt(magic[:], superblockMagic); err != nil {
		return "", fmt.Errorf("read its superblock: %w", err)
	}
	if int(magic[0])|int(magic[1])<<8 != extMagic {
		return "", errors.New("it holds no ext4 file system")
	}
	if _, err := f.ReadAt(id[:], superblockUUID); err != nil {
		return "", fmt.Errorf("read its superblock: %w", err)
	}
	return id.String(), nil
}
