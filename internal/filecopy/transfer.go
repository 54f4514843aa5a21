package filecopy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"

	"github.com/runcvm/runcvm/internal/container"
	"github.com/runcvm/runcvm/internal/firecracker"
	"github.com/runcvm/runcvm/internal/guestapi"
	"github.com/runcvm/runcvm/internal/guestapi/archive"
	"github.com/runcvm/runcvm/internal/monitor"
	"github.com/runcvm/runcvm/internal/monitor/api"
)

const (
	// openTimeout bounds the opening of a copy's stream; the guest's agent waits as long.
	openTimeout = 10 * time.Second
	// silence is how long a guest may neither send nor take a byte. Its agent may be searching a large directory, under emulation.
	silence = 2 * time.Minute
)

// Container is a container whose monitor is reached.
type Container struct {
	ref, id string
	rpc     api.CopyService
	client  *monitor.Client
	dir     *os.File // the run directory, for the vsock socket: its path may be longer than a socket's address can be
}

// Open reaches the monitor of a container that is alive. ref is what the user calls it.
func Open(ctx context.Context, e *container.Entry, ref string) (*Container, error) {
	if !e.Alive {
		return nil, fmt.Errorf("container %s is %s, so no guest has its files: %w", ref, e.State, errdefs.ErrFailedPrecondition)
	}
	client, err := monitor.Dial(ctx, e)
	if err != nil {
		return nil, err
	}
	dir, err := os.Open(e.RunDir)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("reach the guest of %s: %w", ref, err), client.Close())
	}
	return &Container{ref: ref, id: e.ID, rpc: native{client}, client: client, dir: dir}, nil
}

// Close ends the connection.
func (c *Container) Close() error {
	c.dir.Close()
	return c.client.Close()
}

// native gives the monitor's errors the kinds of package errdefs back.
type native struct{ api.CopyService }

func (n native) CopyStat(ctx context.Context, r *api.CopyStatRequest) (*api.CopyStatResponse, error) {
	a, err := n.CopyService.CopyStat(ctx, r)
	return a, errgrpc.ToNative(err)
}

func (n native) CopyOpen(ctx context.Context, r *api.CopyOpenRequest) (*api.CopyOpenResponse, error) {
	a, err := n.CopyService.CopyOpen(ctx, r)
	return a, errgrpc.ToNative(err)
}

func (n native) CopyResult(ctx context.Context, r *api.CopyResultRequest) (*api.CopyResultResponse, error) {
	a, err := n.CopyService.CopyResult(ctx, r)
	return a, errgrpc.ToNative(err)
}

func (c *Container) stat(ctx context.Context, path string) (*api.CopyStatResponse, error) {
	return c.rpc.CopyStat(ctx, &api.CopyStatRequest{Path: []byte(path)})
}

// transfer is one copy that the guest has opened.
type transfer struct {
	c        *Container
	id       string
	progress func(int64)

	bytes   int64 // of the archive
	content int64 // of the files, where they are the host's
	sockets uint64
	socket  string
}

// connect opens the transfer's stream. It closes when ctx ends.
func (t *transfer) connect(ctx context.Context, kind guestapi.Stream) (net.Conn, error) {
	dial, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	path := filepath.Join(fmt.Sprintf("/proc/self/fd/%d", t.c.dir.Fd()), container.VsockSocket)
	conn, err := firecracker.DialRetry(dial, path, guestapi.PortStream)
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, func() { conn.Close() })
	if err = conn.SetDeadline(time.Now().Add(openTimeout)); err == nil {
		err = guestapi.OpenStream(conn, t.c.id, t.id, kind)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, conn.SetDeadline(time.Now().Add(silence))
}

// result asks how the copy came out in the guest.
func (t *transfer) result(ctx context.Context) error {
	r, err := t.c.rpc.CopyResult(ctx, &api.CopyResultRequest{TransferId: t.id})
	if err != nil {
		return err
	}
	t.sockets, t.socket = r.GetSockets(), string(r.GetSocket())
	if text := r.GetError(); text != "" {
		return fmt.Errorf("in the container: %s", text)
	}
	return nil
}

// read gives the guest's bytes to consume. The copy is whole only where consume, the stream and the guest all say so.
func (t *transfer) read(ctx context.Context, consume func(io.Reader) error) error {
	conn, err := t.connect(ctx, guestapi.Stdout)
	if err != nil {
		return interrupted(ctx, err)
	}
	r, w := io.Pipe()
	received := make(chan error, 1)
	go func() {
		err := guestapi.Receive(conn, &patient{conn: conn, w: w, t: t})
		_ = w.CloseWithError(err) // nil is the end
		received <- err
	}()
	err = consume(r)
	_ = r.CloseWithError(errDone)
	if err != nil {
		conn.Close() // whatever the guest still has
	}
	rerr := <-received
	conn.Close()
	if rerr == nil {
		// A guest that failed has ended its archive early.
		if gerr := t.result(ctx); gerr != nil {
			err = gerr
		}
	}
	if err == nil && rerr != nil {
		err = rerr
	}
	return interrupted(ctx, err)
}

// errDone is what the receiver of bytes that nobody wants any more sees.
var errDone = errors.New("the copy has ended")

// producer writes what is sent. A copy that is interrupted does not wait for it, so it has an end of its own: end is called once,
// after write, or when write will not be called.
type producer struct {
	write func(io.Writer) (archive.Packed, error)
	end   func()
}

// write opens a copy into a directory of the container and sends what the producer writes.
func (c *Container) write(ctx context.Context, dir, name string, o Options, from producer) (*transfer, error) {
	t := &transfer{c: c, progress: o.Progress}
	end := from.end
	defer func() { end() }()
	opened, err := c.rpc.CopyOpen(ctx, &api.CopyOpenRequest{
		Path: []byte(dir), Write: true, Name: []byte(name), KeepOwner: o.KeepOwner,
	})
	if err != nil {
		return t, c.failure(err, dir)
	}
	t.id = opened.GetTransferId()
	conn, err := t.connect(ctx, guestapi.Stdin)
	if err != nil {
		return t, interrupted(ctx, err)
	}
	defer conn.Close()
	r, w := io.Pipe()
	type product struct {
		packed archive.Packed
		err    error
	}
	produced := make(chan product, 1)
	end = func() {}
	go func() {
		defer from.end()
		packed, err := from.write(w)
		_ = w.CloseWithError(err) // nil is the end
		produced <- product{packed, err}
	}()
	err = guestapi.Send(conn, &waiting{conn: conn, PipeReader: r, t: t})
	_ = r.CloseWithError(errDone)
	if ctx.Err() != nil {
		return t, interrupted(ctx, err)
	}
	if errors.Is(err, guestapi.ErrReaderGone) {
		// Not waiting for the producer: it may be waiting for standard input. The guest has its reason.
		conn.Close()
		if gerr := t.result(ctx); gerr != nil {
			err = gerr
		}
		return t, interrupted(ctx, err)
	}
	p := <-produced
	switch {
	case p.err != nil && !errors.Is(p.err, errDone):
		return t, p.err
	case err != nil:
		return t, err
	}
	err = t.result(ctx)
	t.content, t.sockets, t.socket = p.packed.Content, p.packed.Sockets, p.packed.Socket
	return t, interrupted(ctx, err)
}

// interrupted prefers the reason why ctx ended over the error that the end led to.
func interrupted(ctx context.Context, err error) error {
	if c := context.Cause(ctx); c != nil && err != nil {
		return c
	}
	return err
}

func (t *transfer) count(n int) {
	t.bytes += int64(n)
	if t.progress != nil {
		t.progress(t.bytes)
	}
}

// patient passes what was received on. Time that the host takes for it does not count as the guest's silence.
type patient struct {
	conn net.Conn
	w    io.Writer
	t    *transfer
}

func (p *patient) Write(b []byte) (int, error) {
	n, err := p.w.Write(b)
	p.t.count(n)
	return n, errors.Join(err, p.conn.SetDeadline(time.Now().Add(silence)))
}

// waiting reads what is to be sent. Time that the host takes for it does not count as the guest's silence.
type waiting struct {
	*io.PipeReader
	conn net.Conn
	t    *transfer
}

func (s *waiting) Read(b []byte) (int, error) {
	if err := s.conn.SetDeadline(time.Time{}); err != nil {
		return 0, err
	}
	n, err := s.PipeReader.Read(b)
	s.t.count(n)
	if derr := s.conn.SetDeadline(time.Now().Add(silence)); derr != nil && err == nil {
		err = derr
	}
	return n, err
}
