package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/runcvm/runcvm/internal/guestapi"
	"github.com/runcvm/runcvm/internal/guestapi/archive"
)

const (
	// maxTransfers bounds the copies that are under way at once.
	maxTransfers = 64
	// resultTime is how long the end of a transfer is remembered.
	resultTime = time.Minute
	// stopTimeout is how long a transfer may take to notice that it is to end.
	stopTimeout = 5 * time.Second
)

// transfer is one copy: bytes between the host's connection and files of the container.
type transfer struct {
	id     string
	tree   archive.Tree
	source *os.File // nil for one into the container
	stream *stream
	// work packs or unpacks, on its end of a pipe whose other end is the connection's.
	work func(context.Context, *pipeEnd) error

	container *container
	cancel    context.CancelFunc
	// done is closed when err and packed are set.
	done   chan struct{}
	err    error
	packed archive.Packed
}

// pipeEnd is what work reads from or writes to.
type pipeEnd struct {
	r *io.PipeReader
	w *io.PipeWriter
}

// close gives up the files of the container.
func (t *transfer) close() {
	t.tree.Root.Close()
	if t.source != nil {
		t.source.Close()
	}
}

// run is the life of a transfer. It ends with the connection, with the work, or with ctx, whichever is the first.
func (t *transfer) run(ctx context.Context) error {
	conn, err := t.connection(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	// Wakes up whoever reads or writes; both then fail.
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	r, w := io.Pipe()
	worked := make(chan error, 1)
	go func() {
		err := t.safeWork(ctx, &pipeEnd{r, w})
		if t.stream.kind == guestapi.Stdout {
			w.CloseWithError(err) // nil is the end
		} else {
			r.CloseWithError(errWorkEnded)
		}
		worked <- err
	}()
	if t.stream.kind == guestapi.Stdout {
		err = guestapi.Send(conn, r)
		_ = r.Close()
	} else {
		err = receiveFiles(conn, w)
	}
	werr := <-worked
	if ctx.Err() != nil {
		return errors.New("the container has ended")
	}
	// Where the work has failed, the stream ended for that reason; where it has not, the stream's end is one.
	if werr != nil && !errors.Is(werr, io.ErrClosedPipe) || err == nil {
		return werr
	}
	return err
}

// connection waits for the host's.
func (t *transfer) connection(ctx context.Context) (net.Conn, error) {
	timeout := time.NewTimer(openTimeout)
	defer timeout.Stop()
	select {
	case conn := <-t.stream.conn:
		return conn, nil
	case <-ctx.Done():
		t.stream.close()
		return nil, ctx.Err()
	case <-timeout.C:
		t.stream.close()
		return nil, fmt.Errorf("the host did not open the copy's stream within %s", openTimeout)
	}
}

// safeWork is work, with a panic as its error: the agent never exits.
func (t *transfer) safeWork(ctx context.Context, end *pipeEnd) (err error) {
	defer func() {
		if p := recover(); p != nil {
			slog.Error("panic in a copy", "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("the guest agent failed in a copy: %v", p)
		}
	}()
	return t.work(ctx, end)
}

// errWorkEnded is what the receiver of files that are no longer taken sees.
var errWorkEnded = errors.New("no more files are taken")

// receiveFiles moves the host's bytes into w. When they are no longer taken it tells the host, and waits for its close.
func receiveFiles(conn net.Conn, w *io.PipeWriter) error {
	err := guestapi.Receive(conn, w)
	w.CloseWithError(err) // nil is the end
	if errors.Is(err, errWorkEnded) {
		linger(conn)
	}
	return err
}

// transfers are all copies of the guest.
type transfers struct {
	mu      sync.Mutex
	all     map[string]*transfer // by container and id
	running int
	closed  bool
}

func transferKey(container, id string) string { return container + "\x00" + id }

// begin lets the host open the transfer's stream, and runs it.
func (s *transfers) begin(c *container, t *transfer) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return errClosing
	case s.running == maxTransfers:
		return status.Errorf(codes.ResourceExhausted, "%d copies are under way, which is all that there may be at once", maxTransfers)
	}
	if err := c.named.add(t.id, t.stream); err != nil {
		return err
	}
	if s.all == nil {
		s.all = map[string]*transfer{}
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.container, t.cancel = c, cancel
	s.all[transferKey(c.id, t.id)] = t
	s.running++
	go s.run(ctx, t)
	return nil
}

func (s *transfers) run(ctx context.Context, t *transfer) {
	defer t.cancel()
	defer time.AfterFunc(resultTime, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.all, transferKey(t.container.id, t.id))
	})
	defer close(t.done)
	defer func() {
		t.close()
		t.container.named.remove(t.id)
		s.mu.Lock()
		s.running--
		s.mu.Unlock()
		slog.Debug("a copy has ended", "container", t.container.id, "transfer", t.id, "error", t.err)
	}()
	t.err = t.run(ctx)
}

func (s *transfers) find(container, id string) *transfer {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all[transferKey(container, id)]
}

// stop ends all copies, so that no disk is in use by them, and lets no further ones in.
func (s *transfers) stop() error {
	s.mu.Lock()
	s.closed = true
	var all []*transfer
	for _, t := range s.all {
		t.cancel()
		all = append(all, t)
	}
	s.mu.Unlock()
	deadline := time.After(stopTimeout)
	for _, t := range all {
		select {
		case <-t.done:
		case <-deadline:
			return fmt.Errorf("a copy did not end within %s", stopTimeout)
		}
	}
	return nil
}
