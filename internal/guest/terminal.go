package guest

import (
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/runcvm/runcvm/internal/guestapi"
)

// console is a socket by which crun hands over the master of the terminal that it makes for a process.
type console struct {
	path     string
	listener *net.UnixListener
}

// consoles numbers the sockets: a container's id would make too long an address.
var consoles atomic.Uint64

func newConsole() (*console, error) {
	path := filepath.Join(runDir, "tty-"+strconv.FormatUint(consoles.Add(1), 10))
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("the terminal's socket: %w", err)
	}
	return &console{path, l}, nil
}

func (c *console) close() { _ = c.listener.Close() } // takes its file away

// consoleTimeout bounds the taking of what crun has sent before its end.
const consoleTimeout = 5 * time.Second

// receive returns the master that crun has sent; it is called when crun has ended.
func (c *console) receive() (*os.File, error) {
	if err := c.listener.SetDeadline(time.Now().Add(consoleTimeout)); err != nil {
		return nil, err
	}
	conn, err := c.listener.AcceptUnix()
	if err != nil {
		return nil, fmt.Errorf("crun has sent no terminal: %w", err)
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(consoleTimeout)); err != nil {
		return nil, err
	}
	// With the descriptor comes the terminal's name, which is of no use here.
	name, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := conn.ReadMsgUnix(name, oob)
	if err != nil {
		return nil, fmt.Errorf("crun has sent no terminal: %w", err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		return nil, errors.Join(errors.New("crun has sent no terminal"), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil, errors.Join(errors.New("crun has sent no terminal"), err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		unix.Close(fds[0])
		return nil, err
	}
	return os.NewFile(uintptr(fds[0]), "terminal"), nil
}

// setTerminal takes the terminal from crun.
func (t *task) setTerminal(c *console, size *guestapi.ConsoleSize) error {
	master, err := c.receive()
	if err != nil {
		return err
	}
	terminal := &terminal{master}
	if size != nil {
		if err := terminal.resize(size); err != nil {
			master.Close()
			return err
		}
	}
	t.mu.Lock()
	t.terminal = terminal
	t.mu.Unlock()
	return nil
}

// terminal is the agent's end of a process's terminal.
type terminal struct{ master *os.File }

// resize sets its size, which sends SIGWINCH to the process group in the foreground.
func (t *terminal) resize(size *guestapi.ConsoleSize) error {
	if size.GetRows() > math.MaxUint16 || size.GetColumns() > math.MaxUint16 {
		return status.Errorf(codes.InvalidArgument, "%d by %d is no terminal's size", size.GetRows(), size.GetColumns())
	}
	conn, err := t.master.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = conn.Control(func(fd uintptr) {
		set = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: uint16(size.GetRows()), Col: uint16(size.GetColumns())})
	})
	if err := errors.Join(err, set); err != nil {
		return fmt.Errorf("set the terminal's size: %w", err)
	}
	return nil
}

// pump moves the bytes of both directions. The end of the output is the terminal's: by then nobody in the container has it open, or
// the host's connection is lost, which is a hangup.
func (t *terminal) pump(task *task, run func(func() error)) {
	in, out := task.streams[guestapi.Stdin], task.streams[guestapi.Stdout]
	if !in.isClosed() {
		run(func() error {
			conn, err := in.take()
			if err != nil {
				return err
			}
			defer conn.Close()
			return receiveStdin(conn, terminalInput{t.master}, task.ended)
		})
	}
	run(func() error {
		defer t.master.Close()
		r := newOutput(t.master, task.ended, true)
		defer r.release()
		if !out.isClosed() {
			conn, err := out.take()
			if err != nil {
				return err
			}
			err = guestapi.Send(conn, r)
			conn.Close()
			if !errors.Is(err, guestapi.ErrReaderGone) {
				return err
			}
			// The host has detached: the process keeps its terminal.
			r.resume()
		}
		_, err := io.Copy(io.Discard, r)
		return err
	})
}

// terminalInput is a terminal's master as a process's standard input. Its end is not the terminal's.
type terminalInput struct{ master *os.File }

func (t terminalInput) SetWriteDeadline(at time.Time) error { return t.master.SetWriteDeadline(at) }
func (t terminalInput) Close() error                        { return nil }

func (t terminalInput) Write(p []byte) (int, error) {
	n, err := t.master.Write(p)
	if errors.Is(err, unix.EIO) || errors.Is(err, os.ErrClosed) {
		err = unix.EPIPE // nobody in the container has it open any more
	}
	return n, err
}
