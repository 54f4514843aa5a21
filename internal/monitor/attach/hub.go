package attach

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// slowTimeout is how long the container waits for a client that takes no output; then it is let go. The client that the
	// container was started for has no such limit: as with a pipe, the container waits for its reader.
	slowTimeout = 10 * time.Second
	// maxClients bounds those who are attached at one time.
	maxClients = 64
	// watchPeriod is how often it is looked whether a client whose input nobody takes is still there.
	watchPeriod = time.Second
)

// Options are a container's.
type Options struct {
	TTY bool
	// Stdin says that it has a standard input that clients can write to.
	Stdin bool
	// Ready says why nobody can attach now; nil where they can.
	Ready func() error
	Log   *slog.Logger
}

// Hub is where a container's output goes to those who are attached, and where their input comes together. Only writes to standard
// output and error block, for as long as the slowest client may take.
type Hub struct {
	o Options

	mu      sync.Mutex
	clients map[*client]bool
	// input is the writing end of the present process's standard input; nil while it has none. turn is closed when there is one.
	input *io.PipeWriter
	turn  chan struct{}
}

// client is one connection.
type client struct {
	conn net.Conn
	// slow is how long a write may take; 0 is for ever.
	slow time.Duration
	mu   sync.Mutex // held while a frame is written
	// ended says that the process that it was attached to has ended. The hub's mutex is its.
	ended bool
}

// NewHub returns a hub without clients.
func NewHub(o Options) *Hub {
	return &Hub{o: o, clients: map[*client]bool{}, turn: make(chan struct{})}
}

// Serve adds the connections of l until it is closed.
func (h *Hub) Serve(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				h.o.Log.Error("nobody can attach any more", "error", err)
			}
			return
		}
		go func() {
			c := &client{conn: conn, slow: slowTimeout}
			if err := h.admit(c, h.o.Ready); err != nil {
				h.o.Log.Debug("a client is not attached", "error", err)
				_ = c.send(frameError, []byte(err.Error())) // it is gone anyway
				conn.Close()
				return
			}
			h.serve(c)
		}()
	}
}

// AddFirst adds the connection of the client that the container is started for. It gets the output from the first byte.
func (h *Hub) AddFirst(conn net.Conn) error {
	c := &client{conn: conn}
	if err := h.admit(c, func() error { return nil }); err != nil {
		return errors.Join(err, conn.Close())
	}
	go h.serve(c)
	return nil
}

// admit lets a client in. HELLO comes ahead of all output.
func (h *Hub) admit(c *client, ready func() error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := ready(); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.clients) >= maxClients {
		return fmt.Errorf("%d are attached to the container, more are not possible", maxClients)
	}
	// It goes into an empty socket, and does not block.
	if err := c.sendJSON(frameHello, hello{TTY: h.o.TTY, Stdin: h.o.Stdin}); err != nil {
		return err
	}
	h.clients[c] = true
	return nil
}

// serve takes a client's input until one of the two has enough.
func (h *Hub) serve(c *client) {
	defer h.remove(c)
	r := newReader(c.conn)
	for {
		kind, payload, err := r.next()
		if err == nil && kind != frameStdin {
			err = fmt.Errorf("%w: a frame of type %d", errProtocol, kind)
		}
		if err != nil {
			h.o.Log.Debug("a client is detached", "reason", err)
			return
		}
		if h.o.Stdin {
			fed := h.watch(c)
			h.feed(c, payload)
			close(fed)
		}
	}
}

// watch looks until fed is closed whether a client leaves while nobody takes its input, during which nothing is read of its
// connection. One that does gives its place up; what it has written last is the process's still.
func (h *Hub) watch(c *client) (fed chan struct{}) {
	fed = make(chan struct{})
	go func() {
		again := time.NewTicker(watchPeriod)
		defer again.Stop()
		for {
			select {
			case <-fed:
				return
			case <-again.C:
			}
			if hungUp(c.conn) {
				h.o.Log.Debug("a client has left while nobody took its input")
				h.remove(c)
				return
			}
		}
	}()
	return fed
}

// hungUp says whether the other end has closed the connection, whatever is still to be read of it.
func hungUp(conn net.Conn) (gone bool) {
	s, ok := conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return true
	}
	err = raw.Control(func(fd uintptr) {
		poll := []unix.PollFd{{Fd: int32(fd)}}
		_, err := unix.Poll(poll, 0)
		gone = err == nil && poll[0].Revents&unix.POLLHUP != 0
	})
	return gone || err != nil
}

func (h *Hub) remove(c *client) {
	h.mu.Lock()
	delete(h.clients, c)
	h.mu.Unlock()
	c.conn.Close()
}

// send writes a frame. The caller of sendJSON and write holds c.mu.
func (c *client) send(kind byte, payload []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.write(kind, payload)
}

func (c *client) sendJSON(kind byte, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return c.write(kind, b)
}

func (c *client) write(kind byte, payload []byte) error {
	if c.slow > 0 {
		if err := c.conn.SetWriteDeadline(time.Now().Add(c.slow)); err != nil {
			return err
		}
	}
	return writeFrame(c.conn, kind, payload)
}

// Stdout returns the writer of the container's standard output. Its writes do not fail: who cannot be written to is let go.
func (h *Hub) Stdout() io.Writer { return output{h, frameStdout} }

// Stderr is as Stdout.
func (h *Hub) Stderr() io.Writer { return output{h, frameStderr} }

type output struct {
	h    *Hub
	kind byte
}

func (o output) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		part := rest[:min(len(rest), maxPayload)]
		rest = rest[len(part):]
		for _, c := range o.h.all() {
			if err := c.send(o.kind, part); err != nil {
				o.h.o.Log.Info("a client that is attached is let go", "error", err)
				o.h.remove(c)
			}
		}
	}
	return len(p), nil
}

func (h *Hub) all() []*client {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Collect(maps.Keys(h.clients))
}

// Input returns the standard input of the process that is about to run: what clients write from now on, and what comes from first,
// where that is not nil, whose end is its end.
func (h *Hub) Input(first io.Reader) io.ReadCloser {
	r, w := io.Pipe()
	h.mu.Lock()
	h.input = w
	close(h.turn)
	h.turn = make(chan struct{})
	h.mu.Unlock()
	if first != nil {
		go func() {
			_, err := io.Copy(w, first)
			w.CloseWithError(err)
		}()
	}
	return r
}

// feed writes to the process's standard input. Before there is one it waits; what a process does not take is lost, and so is what
// comes after its end: the next process is not the one that it was for.
func (h *Hub) feed(c *client, p []byte) {
	h.mu.Lock()
	w, turn, ended := h.input, h.turn, c.ended
	h.mu.Unlock()
	switch {
	case ended:
	case w == nil:
		<-turn
		h.feed(c, p)
	default:
		_, _ = w.Write(p)
	}
}

// endTimeout bounds the telling of the end.
const endTimeout = 10 * time.Second

// End tells all clients how the container ended, and lets them go. The hub can be used for the container's next start.
func (h *Hub) End(exit Exit) {
	h.mu.Lock()
	if h.input != nil {
		_ = h.input.Close() // never fails
		h.input = nil
	}
	for c := range h.clients {
		c.ended = true
	}
	h.mu.Unlock()
	var group sync.WaitGroup
	for _, c := range h.all() {
		group.Go(func() {
			// What a client has not read stays in its socket. The deadline ends a write that is under way, too.
			_ = c.conn.SetWriteDeadline(time.Now().Add(endTimeout))
			c.mu.Lock()
			c.slow = endTimeout
			err := c.sendJSON(frameExit, exit)
			c.mu.Unlock()
			if err != nil {
				h.o.Log.Info("a client does not get to know the container's end", "error", err)
			}
			h.remove(c)
		})
	}
	group.Wait()
}
