package enginefile

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Apply carries the change out: the new file takes the old one's place at once, with its mode, owner and attributes.
func (c *Change) Apply() error {
	if c.Empty() {
		return nil
	}
	err := c.apply()
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("%w; run it as root", err)
	}
	return err
}

func (c *Change) apply() error {
	dir := filepath.Dir(c.target)
	now, err := read(c.target)
	if err != nil {
		return err
	}
	if !bytes.Equal(now, c.Before) {
		return fmt.Errorf("%s has changed meanwhile, and was left as it is: try again", c.File)
	}
	if c.After == nil {
		if err := os.Remove(c.target); err != nil {
			return err
		}
		return syncDir(dir)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(dir, "."+filepath.Base(c.target)+".*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(tmp.Name()) }() // it is gone where all went well
	if err := errors.Join(c.fill(tmp), tmp.Close()); err != nil {
		return fmt.Errorf("write %s: %w", c.File, err)
	}
	if err := os.Rename(tmp.Name(), c.target); err != nil {
		return err
	}
	return syncDir(dir)
}

// fill writes the new text and makes the file what the old one was.
func (c *Change) fill(f *os.File) error {
	if _, err := f.Write(c.After); err != nil {
		return err
	}
	mode := os.FileMode(0o644)
	if c.Before != nil {
		info, err := os.Stat(c.target)
		if err != nil {
			return err
		}
		mode = info.Mode().Perm()
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			if err := f.Chown(int(st.Uid), int(st.Gid)); err != nil {
				return err
			}
		}
		if err := copyAttributes(c.target, f); err != nil {
			return err
		}
	}
	if err := f.Chmod(mode); err != nil {
		return err
	}
	return f.Sync()
}

// copyAttributes gives a file the extended attributes of another: labels and access lists.
func copyAttributes(from string, to *os.File) error {
	size, err := unix.Listxattr(from, nil)
	if errors.Is(err, unix.EOPNOTSUPP) || err == nil && size == 0 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list its attributes: %w", err)
	}
	names := make([]byte, size)
	if size, err = unix.Listxattr(from, names); err != nil {
		return fmt.Errorf("list its attributes: %w", err)
	}
	value := make([]byte, 64<<10) // the kernel's limit
	for name := range strings.SplitSeq(strings.Trim(string(names[:size]), "\x00"), "\x00") {
		n, err := unix.Getxattr(from, name, value)
		if err == nil {
			err = unix.Fsetxattr(int(to.Fd()), name, value[:n], 0)
		}
		if err != nil {
			return fmt.Errorf("copy its attribute %s: %w", name, err)
		}
	}
	return nil
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
