package filecopy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/container"
	"github.com/runcvm/runcvm/internal/guestapi"
	"github.com/runcvm/runcvm/internal/guestapi/archive"
	"github.com/runcvm/runcvm/internal/monitor/api"
	"github.com/runcvm/runcvm/test/serve"
)

// fakeGuest stands for a monitor and its guest: the container's root directory is a directory of the test, and the VMM's vsock
// socket one of the test's.
type fakeGuest struct {
	root string
	tree archive.Tree

	mu      sync.Mutex
	opened  *api.CopyOpenRequest
	results chan string
	// serve, where set, takes the place of an honest stream.
	serve func(net.Conn)
	// result, where set, takes the place of an honest one.
	result func() (*api.CopyResultResponse, error)
}

// newContainer is a container of a fake guest.
func newContainer(t testing.TB) (*Container, *fakeGuest) {
	t.Helper()
	g := &fakeGuest{root: t.TempDir(), results: make(chan string, 1)}
	root, err := os.Open(g.root)
	must(t, err)
	t.Cleanup(func() { root.Close() })
	g.tree = archive.Tree{Root: root, FollowLinks: true}
	run, err := os.MkdirTemp("", "vsock")
	must(t, err)
	dir, err := os.Open(run)
	must(t, err)
	l, err := net.Listen("unix", filepath.Join(run, container.VsockSocket))
	must(t, err)
	t.Cleanup(func() { l.Close(); dir.Close(); os.RemoveAll(run) })
	go serve.Connections(l, g.vsock)
	return &Container{ref: "c", id: "c", rpc: g, dir: dir}, g
}

func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func (g *fakeGuest) CopyStat(_ context.Context, r *api.CopyStatRequest) (*api.CopyStatResponse, error) {
	name := rooted(string(r.GetPath()))
	st, err := g.tree.Stat(strings.TrimSuffix(name, "."))
	if errors.Is(err, unix.ENOENT) {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	answer := &api.CopyStatResponse{Mode: st.Mode, Size: st.Size}
	if isLink(answer) {
		target, err := g.tree.Evaluate(name)
		answer.LinkTarget = []byte(target)
		return answer, err
	}
	return answer, nil
}

func (g *fakeGuest) CopyOpen(ctx context.Context, r *api.CopyOpenRequest) (*api.CopyOpenResponse, error) {
	st, err := g.CopyStat(ctx, &api.CopyStatRequest{Path: r.GetPath()})
	g.mu.Lock()
	defer g.mu.Unlock()
	g.opened = r
	return &api.CopyOpenResponse{Stat: st, TransferId: "transfer"}, err
}

func (g *fakeGuest) CopyResult(context.Context, *api.CopyResultRequest) (*api.CopyResultResponse, error) {
	if g.result != nil {
		return g.result()
	}
	return &api.CopyResultResponse{Error: <-g.results}, nil
}

// vsock answers as the VMM and then as the agent.
func (g *fakeGuest) vsock(conn net.Conn) {
	defer conn.Close()
	line := make([]byte, len("CONNECT 1025\n"))
	if _, err := io.ReadFull(conn, line); err != nil {
		return
	}
	fmt.Fprint(conn, "OK 1\n")
	_, id, _, err := guestapi.AcceptStream(conn)
	if err != nil || id != "transfer" || guestapi.Accept(conn) != nil {
		return
	}
	if g.serve != nil {
		g.serve(conn)
		return
	}
	g.mu.Lock()
	r := g.opened
	g.mu.Unlock()
	if r.GetWrite() {
		err = g.receive(conn, r)
	} else {
		err = g.send(conn, r)
	}
	text := ""
	if err != nil {
		text = err.Error()
	}
	g.results <- text
}

func (g *fakeGuest) receive(conn net.Conn, r *api.CopyOpenRequest) error {
	pr, pw := io.Pipe()
	unpacked := make(chan error, 1)
	go func() {
		u := archive.Unpacker{Tree: g.tree, Dir: rooted(string(r.GetPath())), Name: string(r.GetName()), KeepOwner: r.GetKeepOwner(), Owner: &archive.Owner{}}
		err := u.Unpack(context.Background(), pr)
		_ = pr.CloseWithError(errDone)
		unpacked <- err
	}()
	_ = pw.CloseWithError(guestapi.Receive(conn, pw))
	return <-unpacked
}

func (g *fakeGuest) send(conn net.Conn, r *api.CopyOpenRequest) error {
	f, err := g.tree.Open(strings.TrimSuffix(rooted(string(r.GetPath())), "."), unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return err
	}
	defer f.Close()
	pr, pw := io.Pipe()
	go func() {
		_, err := (&archive.Packer{}).Pack(context.Background(), pw, f)
		_ = pw.CloseWithError(err)
	}()
	return guestapi.Send(conn, pr)
}
