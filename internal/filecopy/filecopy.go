// Package filecopy copies files between the host and a container by the rules of docker cp.
//
// Open reaches the container's monitor; From and To copy, any number of times; Close ends the connection. Bytes go over a stream
// of the guest that this package opens itself; see guestapi's copy.proto.
//
// What comes from a guest is written by package archive, which cannot be led out of the destination, and names nothing but the one
// thing that was asked for.
package filecopy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/guestapi/archive"
	"github.com/runcvm/runcvm/internal/monitor/api"
)

// Stdio in place of a path on the host is a tar stream: standard input's or output's.
const Stdio = "-"

// Options say how to copy.
type Options struct {
	// FollowLink copies what a source leads to that is a symbolic link.
	FollowLink bool
	// KeepOwner gives the copies the owners of their sources. Otherwise they are root's in a container, and the caller's on the host.
	KeepOwner bool
	Stdin     io.Reader
	Stdout    io.Writer
	// Progress, where set, is told of the bytes that have gone over, again and again.
	Progress func(bytes int64)
}

// Summary is what was copied.
type Summary struct {
	// Content is the size of the files where that is known, and otherwise, like Transferred, of the archive in bytes.
	Content, Transferred int64
	// Dest is where it went: a path of the host, or of the container, fit to be shown.
	Dest string
	// Sockets were left out, since they are nothing without the process that listens; Socket is the first.
	Sockets uint64
	Socket  string
}

// From copies a path of the container to a path of the host, or as a tar stream to o.Stdout.
func (c *Container) From(ctx context.Context, source, dest string, o Options) (Summary, error) {
	var err error
	if dest != Stdio {
		if dest, err = absolute(dest); err == nil {
			err = validateOutput(dest)
		}
		if err != nil {
			return Summary{}, err
		}
	}
	name := baseOf(source)
	if o.FollowLink {
		if st, err := c.stat(ctx, source); err == nil && isLink(st) {
			source = followed(source, string(st.GetLinkTarget()))
			if dest == Stdio {
				name = baseOf(source)
			}
		}
	}
	opened, err := c.rpc.CopyOpen(ctx, &api.CopyOpenRequest{Path: []byte(source)})
	if err != nil {
		return Summary{}, c.failure(err, source)
	}
	t := &transfer{c: c, id: opened.GetTransferId(), progress: o.Progress}
	if dest == Stdio {
		err = t.read(ctx, func(r io.Reader) error { return plain(o.Stdout, r, name) })
		return Summary{Content: t.bytes, Transferred: t.bytes, Sockets: t.sockets, Socket: t.socket}, err
	}
	dst, err := localDestination(dest)
	if err != nil {
		return Summary{}, err
	}
	isDir := opened.GetStat().GetMode()&unix.S_IFMT == unix.S_IFDIR
	dir, name, err := place(name, isDir, dst)
	if err != nil {
		return Summary{}, err
	}
	root, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return Summary{}, err
	}
	defer root.Close()
	err = t.read(ctx, func(r io.Reader) error {
		u := archive.Unpacker{Tree: archive.Tree{Root: root}, Dir: ".", Name: name, KeepOwner: o.KeepOwner}
		return u.Unpack(ctx, r)
	})
	s := Summary{Content: t.bytes, Transferred: t.bytes, Dest: dest, Sockets: t.sockets, Socket: t.socket}
	if !isDir {
		s.Content = opened.GetStat().GetSize()
	}
	return s, err
}

// To copies a path of the host, or the tar stream of o.Stdin, to a path of the container.
func (c *Container) To(ctx context.Context, source, dest string, o Options) (Summary, error) {
	dst, err := c.destination(ctx, dest)
	if err != nil {
		return Summary{}, err
	}
	if source == Stdio {
		if !dst.isDir {
			return Summary{}, fmt.Errorf("destination \"%s:%s\" must be a directory", c.ref, dest)
		}
		t, err := c.write(ctx, dst.path, "", o, producer{
			write: func(w io.Writer) (archive.Packed, error) { return archive.Packed{}, wire(w, o.Stdin) },
			end:   func() {},
		})
		return Summary{Content: t.bytes, Transferred: t.bytes, Dest: printable(dst.path)}, err
	}
	if source, err = absolute(source); err != nil {
		return Summary{}, err
	}
	file, isDir, err := localSource(source, o.FollowLink)
	if err != nil {
		return Summary{}, err
	}
	dir, name, err := place(baseOf(source), isDir, dst)
	if err != nil {
		return Summary{}, errors.Join(err, file.Close())
	}
	s := Summary{Dest: printable(dst.path)}
	t, err := c.write(ctx, dir, name, o, producer{
		write: func(w io.Writer) (archive.Packed, error) { return (&archive.Packer{}).Pack(ctx, w, file) },
		end:   func() { _ = file.Close() }, // it was only read
	})
	s.Content, s.Transferred, s.Sockets, s.Socket = t.content, t.bytes, t.sockets, t.socket
	return s, err
}

// destination is what a path of the container is as the destination of a copy.
func (c *Container) destination(ctx context.Context, dest string) (destination, error) {
	dst := destination{path: dest}
	st, err := c.stat(ctx, dest)
	if err == nil && isLink(st) {
		dst.path = string(st.GetLinkTarget())
		st, err = c.stat(ctx, dst.path)
	}
	if errdefs.IsNotFound(err) || errdefs.IsInvalidArgument(err) {
		return dst, nil // its parent may be there; if not, that is told when it is written into
	}
	if err != nil {
		return dst, err
	}
	dst.exists = true
	switch st.GetMode() & unix.S_IFMT {
	case unix.S_IFDIR:
		dst.isDir = true
	case unix.S_IFCHR, unix.S_IFBLK:
		return dst, fmt.Errorf("destination \"%s:%s\" must be a directory or a regular file: got a device", c.ref, dest)
	}
	return dst, nil
}

func isLink(st *api.CopyStatResponse) bool { return st.GetMode()&unix.S_IFMT == unix.S_IFLNK }

// failure is an error of a call about a path, in Docker's words where it has some.
func (c *Container) failure(err error, path string) error {
	if errdefs.IsNotFound(err) {
		return fmt.Errorf("could not find the file %s in container %s", printable(rooted(path)), c.ref)
	}
	return err
}

// rooted is a path of the container as Docker shows it.
func rooted(path string) string { return trailing(filepath.Join("/", path), path) }

// printable takes out what a terminal would act on.
func printable(path string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return '?'
		}
		return r
	}, path)
}

// validateOutput is Docker's check of a destination on the host before anything is asked for.
func validateOutput(path string) error {
	dir := filepath.Dir(filepath.Clean(path))
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("invalid output path: directory %q does not exist", dir)
	}
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err == nil && info.Mode()&os.ModeDevice != 0 {
		return fmt.Errorf("invalid output path: %q must be a directory or a regular file: got a device", path)
	}
	return err
}
