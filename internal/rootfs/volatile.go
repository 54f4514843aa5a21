package rootfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/filelock"
)

// A disk that was built as its layers came gets its name before it is on stable storage, since it can be built again. The
// attribute says in which boot of the host that was: in another, after a power failure, the disk may be anything, and counts as
// not there. It is set before the name, so a journal that has the name has the attribute. Who opens the disk in the same boot
// makes it durable, beside his other work, and takes the attribute away.
const bootAttribute = "user.runcvm.boot"

// bootID is the host's, another after each boot: random(4).
var bootID = sync.OnceValues(func() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b)), err
})

// markVolatile says of a disk that it is not on stable storage; where the file system takes no such note, it is put there.
func markVolatile(f *os.File) error {
	id, err := bootID()
	if err == nil {
		err = unix.Fsetxattr(int(f.Fd()), bootAttribute, []byte(id), 0)
	}
	if err != nil {
		return f.Sync()
	}
	return nil
}

// volatileIn returns the boot in which a disk was built that is not known to be on stable storage; empty for any other.
func volatileIn(f *os.File) (string, error) {
	buf := make([]byte, 64)
	n, err := unix.Fgetxattr(int(f.Fd()), bootAttribute, buf)
	switch {
	case errors.Is(err, unix.ENODATA), errors.Is(err, unix.ENOTSUP):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("image disk %s: %w", f.Name(), err)
	}
	return string(buf[:n]), nil
}

// isLost says whether a disk may have lost content when the host went down.
func isLost(f *os.File) (bool, error) {
	in, err := volatileIn(f)
	if err != nil || in == "" {
		return false, err
	}
	id, err := bootID()
	return in != id, err
}

// has says whether there is a disk at path, and removes one that may have lost content.
func has(path string) (bool, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	lost, err := isLost(f)
	if err != nil || !lost {
		return err == nil, err
	}
	// Nobody has it in use: it is opened by no one in this boot.
	_, err = filelock.RemoveUnlocked(path)
	return false, err
}

// settle makes a disk durable, in the background. A process that ends before has lost nothing: the next does it.
func settle(path string) {
	f, err := os.Open(path)
	if err != nil {
		return // it is pruned, and whoever opened it has it all the same
	}
	if in, err := volatileIn(f); err != nil || in == "" {
		f.Close()
		return
	}
	go func() {
		defer f.Close()
		if f.Sync() == nil {
			_ = unix.Fremovexattr(int(f.Fd()), bootAttribute) // then the next tries again
		}
	}()
}
