package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/runcvm/runcvm/internal/guestapi"
	"github.com/runcvm/runcvm/internal/guestapi/archive"
)

// copyService answers the calls of guestapi's Copy.
type copyService struct{ a *agent }

var _ guestapi.CopyService = (*copyService)(nil)

func (s *copyService) Stat(_ context.Context, r *guestapi.CopyStatRequest) (*guestapi.CopyStatResponse, error) {
	tree, err := s.tree(r.ContainerId)
	if err != nil {
		return nil, err
	}
	defer tree.Root.Close()
	st, err := statIn(tree, string(r.Path))
	return st, copyStatus(err)
}

// tree is the container's root directory; who gets it closes it.
func (s *copyService) tree(id string) (archive.Tree, error) {
	c, err := s.a.state.get(id)
	if err != nil {
		return archive.Tree{}, err
	}
	root, err := s.a.openRoot(c)
	return archive.Tree{Root: root, FollowLinks: true}, err
}

// statIn tells what a path of the tree is.
func statIn(tree archive.Tree, name string) (*guestapi.CopyStatResponse, error) {
	name = rooted(name)
	st, err := tree.Stat(name)
	if err != nil {
		return nil, err
	}
	answer := &guestapi.CopyStatResponse{Mode: st.Mode, Size: st.Size}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		target, err := tree.Evaluate(name)
		if err != nil {
			return nil, err
		}
		answer.LinkTarget = []byte(target)
	}
	return answer, nil
}

// rooted is a path as the container's. A slash or a dot at its end stays: it asks for a directory.
func rooted(name string) string {
	clean := path.Join("/", name)
	if clean != "/" && (strings.HasSuffix(name, "/") || strings.HasSuffix(name, "/.")) {
		return clean + "/"
	}
	return clean
}

// copyStatus gives an error of the file system the code by which the host knows it.
func copyStatus(err error) error {
	var known interface{ GRPCStatus() *status.Status }
	code := codes.Internal
	switch {
	case err == nil || errors.As(err, &known):
		return err
	case errors.Is(err, unix.ENOENT):
		code = codes.NotFound
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENAMETOOLONG), errors.Is(err, unix.EINVAL):
		code = codes.InvalidArgument
	}
	return status.Error(code, strings.ToValidUTF8(err.Error(), "?"))
}

func (s *copyService) Open(_ context.Context, r *guestapi.CopyOpenRequest) (*guestapi.CopyOpenResponse, error) {
	if !validID(r.TransferId) {
		return nil, status.Errorf(codes.InvalidArgument, "%.128q is no id of a transfer", r.TransferId)
	}
	if name := string(r.Name); name == "." || name == ".." || strings.Contains(name, "/") {
		return nil, status.Errorf(codes.InvalidArgument, "%.128q is no name of a file", name)
	}
	c, err := s.a.state.get(r.ContainerId)
	if err != nil {
		return nil, err
	}
	tree, err := s.tree(r.ContainerId)
	if err != nil {
		return nil, err
	}
	t := &transfer{id: r.TransferId, tree: tree, done: make(chan struct{})}
	var st *guestapi.CopyStatResponse
	if r.Write {
		err = t.toWrite(r)
	} else {
		st, err = t.toRead(string(r.Path))
	}
	if err == nil {
		err = s.a.copies.begin(c, t)
	}
	if err != nil {
		t.close()
		return nil, copyStatus(err)
	}
	return &guestapi.CopyOpenResponse{Stat: st}, nil
}

// toRead makes t a transfer out of the container.
func (t *transfer) toRead(name string) (*guestapi.CopyStatResponse, error) {
	st, err := statIn(t.tree, name)
	if err != nil {
		return nil, err
	}
	if t.source, err = t.tree.Open(rooted(name), unix.O_PATH|unix.O_NOFOLLOW); err != nil {
		return nil, err
	}
	// Docker copies nothing that lies in /dev. What the container has mounted there as a directory of its own, shm, can be named.
	dev, err := t.tree.Stat("/dev")
	packer := &archive.Packer{}
	if err == nil {
		packer.Hollow = func(st *unix.Stat_t) bool { return st.Dev == dev.Dev && st.Ino == dev.Ino }
	}
	t.stream = newStream(guestapi.Stdout)
	t.work = func(ctx context.Context, end *pipeEnd) error {
		t.packed, err = packer.Pack(ctx, end.w, t.source)
		return err
	}
	return st, nil
}

// toWrite makes t a transfer into a directory of the container, which must be there.
func (t *transfer) toWrite(r *guestapi.CopyOpenRequest) error {
	dir, err := t.tree.Open(rooted(string(r.Path)), unix.O_PATH)
	if err != nil {
		return err
	}
	defer dir.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return status.Error(codes.InvalidArgument, "extraction point is not a directory")
	}
	if err := t.writable(dir, &st); err != nil {
		return err
	}
	unpacker := &archive.Unpacker{
		Tree: t.tree, Dir: rooted(string(r.Path)), Name: string(r.Name), KeepOwner: r.KeepOwner, Owner: &archive.Owner{},
	}
	t.stream = newStream(guestapi.Stdin)
	t.work = func(ctx context.Context, end *pipeEnd) error { return unpacker.Unpack(ctx, end.r) }
	return nil
}

// writable says why nothing can be copied into a directory, before anything is; in Docker's words where it has some.
func (t *transfer) writable(dir *os.File, st *unix.Stat_t) error {
	if kind, err := archive.KernelFilesystem(dir); err != nil {
		return err
	} else if kind != "" {
		return status.Errorf(codes.InvalidArgument, "the kernel's own file system %s cannot be copied into", kind)
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &fs); err != nil {
		return err
	}
	if fs.Flags&unix.ST_RDONLY == 0 {
		return nil
	}
	var root unix.Stat_t
	if err := unix.Fstat(int(t.tree.Root.Fd()), &root); err != nil {
		return err
	}
	if st.Dev == root.Dev {
		return status.Error(codes.InvalidArgument, "container rootfs is marked read-only")
	}
	return status.Error(codes.InvalidArgument, "mounted volume is marked read-only")
}

func (s *copyService) Result(ctx context.Context, r *guestapi.CopyResultRequest) (*guestapi.CopyResultResponse, error) {
	t := s.a.copies.find(r.ContainerId, r.TransferId)
	if t == nil {
		return nil, status.Errorf(codes.NotFound, "container %.128q has no transfer %.128q", r.ContainerId, r.TransferId)
	}
	select {
	case <-t.done:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	answer := &guestapi.CopyResultResponse{Sockets: t.packed.Sockets, Socket: []byte(t.packed.Socket)}
	if t.err != nil {
		answer.Error = strings.ToValidUTF8(fmt.Sprintf("%.2048s", t.err), "?")
	}
	return answer, nil
}
