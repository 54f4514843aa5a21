package kernel

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"path"
)

// File types and permissions of a cpio entry are those of inode(7).
const (
	modeDir     = 0o040755
	modeFile    = 0o100644
	modeExec    = 0o100755
	modeSymlink = 0o120777
	modeChar    = 0o020600
)

// cpioWriter writes the kernel's initramfs format, newc (Documentation/driver-api/early-userspace/buffer-format.rst). Owner,
// times and inode numbers are fixed, so that equal input gives equal bytes. (The libraries for it know no device nodes.)
type cpioWriter struct {
	w    *bufio.Writer
	ino  uint32
	size int64
	dirs map[string]bool
	err  error
}

func newCpioWriter(w io.Writer) *cpioWriter {
	return &cpioWriter{w: bufio.NewWriterSize(w, 1<<20), dirs: map[string]bool{"/": true}}
}

// entry writes one entry; its parents are made first. After an error it does nothing: close tells.
func (c *cpioWriter) entry(name string, mode uint32, major, minor uint32, content []byte) {
	if parent := path.Dir(name); !c.dirs[parent] {
		c.entry(parent, modeDir, 0, 0, nil)
	}
	if mode == modeDir {
		if c.dirs[name] {
			return
		}
		c.dirs[name] = true
	}
	c.header(name[1:], mode, major, minor, uint32(len(content)))
	c.write(content)
	c.pad()
}

func (c *cpioWriter) dir(name string)                  { c.entry(name, modeDir, 0, 0, nil) }
func (c *cpioWriter) file(name string, content []byte) { c.entry(name, modeFile, 0, 0, content) }
func (c *cpioWriter) exec(name string, content []byte) { c.entry(name, modeExec, 0, 0, content) }

func (c *cpioWriter) header(name string, mode, major, minor, size uint32) {
	c.ino++
	// magic, ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor, namesize, check
	c.write(fmt.Appendf(nil, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		c.ino, mode, 0, 0, 1, 0, size, 0, 0, major, minor, len(name)+1, 0))
	c.write([]byte(name + "\x00"))
	c.pad()
}

func (c *cpioWriter) write(b []byte) {
	if c.err == nil {
		_, c.err = c.w.Write(b)
		c.size += int64(len(b))
	}
}

func (c *cpioWriter) pad() { c.write(make([]byte, (4-c.size%4)%4)) }

// close writes the end of the archive and returns the first error of all.
func (c *cpioWriter) close() error {
	c.header("TRAILER!!!", 0, 0, 0, 0)
	return errors.Join(c.err, c.w.Flush())
}
