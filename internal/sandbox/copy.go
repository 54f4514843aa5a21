package sandbox

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/guestapi"
)

// File is what the guest says that a path of a container is.
type File struct {
	Mode uint32 // st_mode of inode(7)
	Size int64
	// LinkTarget is where a symbolic link leads at last: an absolute path of the container that need not exist.
	LinkTarget string
}

// CopyRequest says what to copy. Paths are the container's.
type CopyRequest struct {
	ID   string // chosen by the caller, new for each copy
	Path string // what to read, or the directory to write into
	// Write copies into the container. Name is what the source is called under Path; empty: its content goes into Path itself.
	Write bool
	Name  string
	// KeepOwner keeps the owners of the archive in the container.
	KeepOwner bool
}

// CopyResult is how a copy came out.
type CopyResult struct {
	// Error is empty when all was copied. It is the guest's text, bounded and printable.
	Error string
	// Sockets were left out; Socket is the path of the first.
	Sockets uint64
	Socket  string
}

// copyResultTimeout bounds the time from the end of a copy's stream until the guest has closed the files and says so.
const copyResultTimeout = time.Minute

// CopyStat tells what a path of the container is. errdefs.ErrNotFound where there is nothing.
func (c *Container) CopyStat(ctx context.Context, path string) (File, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	answer, err := c.copies().Stat(ctx, &guestapi.CopyStatRequest{ContainerId: c.h.container, Path: []byte(path)})
	if err != nil {
		return File{}, fmt.Errorf("look at %q in the container: %w", path, err)
	}
	return fileOf(answer)
}

// CopyOpen begins a copy. The caller opens its stream, by the copy's id, and then asks for the result.
func (c *Container) CopyOpen(ctx context.Context, r CopyRequest) (File, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	answer, err := c.copies().Open(ctx, &guestapi.CopyOpenRequest{
		ContainerId: c.h.container, TransferId: r.ID, Path: []byte(r.Path), Write: r.Write, Name: []byte(r.Name), KeepOwner: r.KeepOwner,
	})
	if err != nil {
		return File{}, fmt.Errorf("copy %q of the container: %w", r.Path, err)
	}
	if r.Write {
		return File{}, nil
	}
	return fileOf(answer.GetStat())
}

// CopyResult returns how a copy came out whose stream has ended.
func (c *Container) CopyResult(ctx context.Context, id string) (CopyResult, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, copyResultTimeout,
		fmt.Errorf("the guest's agent has not said within %s how the copy came out", copyResultTimeout))
	defer cancel()
	answer, err := c.copies().Result(ctx, &guestapi.CopyResultRequest{ContainerId: c.h.container, TransferId: id})
	if err != nil {
		return CopyResult{}, cause(ctx, fmt.Errorf("end the copy: %w", err))
	}
	return CopyResult{
		Error: clean(answer.GetError(), maxGuestText), Sockets: answer.GetSockets(),
		Socket: clean(strings.ToValidUTF8(string(answer.GetSocket()), "?"), maxGuestText),
	}, nil
}

func (c *Container) copies() guestapi.CopyService { return guestapi.NewCopyClient(c.s.rpc) }

// fileOf checks what the guest says of a file.
func fileOf(answer *guestapi.CopyStatResponse) (File, error) {
	f := File{Mode: answer.GetMode(), Size: answer.GetSize(), LinkTarget: string(answer.GetLinkTarget())}
	isLink := f.Mode&unix.S_IFMT == unix.S_IFLNK
	switch {
	case f.Mode > 0o177777, f.Size < 0:
		return File{}, fmt.Errorf("the guest's agent tells of a file that there cannot be: mode %o, size %d", f.Mode, f.Size)
	case isLink != (f.LinkTarget != ""), len(f.LinkTarget) > unix.PathMax, strings.Contains(f.LinkTarget, "\x00"),
		isLink && !strings.HasPrefix(f.LinkTarget, "/"):
		return File{}, errors.New("the guest's agent tells of a symbolic link that there cannot be")
	}
	return f, nil
}
