package monitor

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/network"
)

// Command is the hidden verb of runcvm that runs Main.
const Command = "monitor"

// Signals returns a channel with the signals that are meant for a container: all that can be caught, without those that
// the kernel and Go's runtime send for reasons of their own.
func Signals() chan os.Signal {
	const last = 64 // SIGRTMAX of signal(7)
	own := []syscall.Signal{
		syscall.SIGCHLD, syscall.SIGURG, syscall.SIGPIPE, syscall.SIGTTIN, syscall.SIGTTOU, syscall.SIGTSTP, syscall.SIGCONT,
		syscall.SIGKILL, syscall.SIGSTOP,
	}
	signals := make(chan os.Signal, 16)
	// These may come during the start. The others have no meaning before the container runs, and to catch one takes Go's runtime
	// some 20 µs: all of them at once would be more than a millisecond of every start, twice.
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		for n := syscall.Signal(1); n <= last; n++ {
			if !slices.Contains(own, n) {
				signal.Notify(signals, n)
			}
		}
	}()
	return signals
}

// StartError says that the container could not be run.
type StartError struct {
	Message string
	Code    int // the exit code for the caller: 125, 126 or 127
	// Busy says that another monitor has the container.
	Busy bool
}

func (e *StartError) Error() string { return e.Message }

// Spawned is a monitor that this process has started.
type Spawned struct {
	cmd *exec.Cmd
	// lifeline is the writing end of the request's pipe: the monitor of a container that is not detached ends with it.
	lifeline  *os.File
	status    *json.Decoder
	statusR   *os.File
	interrupt sync.Once
	// Attached is this end of the connection by which the caller is attached, where the request says so.
	Attached net.Conn
}

// socketpair makes a connection between this process and one that it starts.
func socketpair() (net.Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a pair of sockets: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "attached"), os.NewFile(uintptr(fds[1]), "attached")
	defer ours.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("make a pair of sockets: %w", err), theirs.Close())
	}
	return conn, theirs, nil
}

// Detach says that the container outlives this process.
func (s *Spawned) Detach() error {
	_, err := s.lifeline.Write([]byte{detachByte})
	return err
}

// Spawn runs a monitor in pid and mount namespaces of its own and returns when its container runs. A *StartError says why
// it does not. The three standard files become the monitor's unless the request is detached.
func Spawn(ctx context.Context, req Request) (*Spawned, error) { return spawn(ctx, req, nil) }

func spawn(ctx context.Context, req Request, place *Place) (*Spawned, error) {
	hostNet, err := req.makeNamespace()
	if err != nil {
		return nil, err
	}
	s, err := spawnProcess(ctx, req, place, hostNet)
	if hostNet != nil {
		hostNet.Close()
		// From here on it is the monitor's, which is gone where there was an error.
		if err != nil {
			err = also(err, req.dropNamespace())
		}
	}
	return s, err
}

func spawnProcess(ctx context.Context, req Request, place *Place, hostNet *os.File) (*Spawned, error) {
	// By its path: what /proc/self/exe refers to is a mount of this namespace, of which the monitor could not tell the path after
	// a chroot.
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find runcvm itself: %w", err)
	}
	requestR, requestW, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make a pipe: %w", err)
	}
	defer requestR.Close()
	statusR, statusW, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make a pipe: %w", err), requestW.Close())
	}

	if err := KeepFiles(); err != nil {
		return nil, errors.Join(err, requestW.Close(), statusW.Close())
	}
	cmd := exec.Command(self, Command)
	cmd.Args[0] = "runcvm"
	cmd.ExtraFiles = []*os.File{requestFD - 3: requestR, statusFD - 3: statusW, attachFD - 3: nil, hostNetFD - 3: hostNet}
	var attached net.Conn
	if req.Attached {
		var theirs *os.File
		if attached, theirs, err = socketpair(); err != nil {
			return nil, errors.Join(err, requestW.Close(), statusW.Close())
		}
		defer theirs.Close()
		cmd.ExtraFiles[attachFD-3] = theirs
	} else if !req.Detach {
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS,
		// A terminal's signals come to the caller, which forwards them; and a detached monitor outlives the session.
		Setsid: true,
	}
	cpus, err := req.Options.CPUList()
	if err == nil {
		place.prepare(cmd, req)
		err = startIn(cmp.Or(req.Netns, req.Namespace), func() error { return startOn(cmd, cpus) })
	}
	statusW.Close()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("run the monitor: %w", err), requestW.Close(), statusR.Close())
	}
	s := &Spawned{cmd: cmd, lifeline: requestW, Attached: attached, statusR: statusR}
	if err := place.started(cmd.Process.Pid, &req); err != nil {
		return nil, errors.Join(err, s.Abort(), statusR.Close())
	}
	s.status = json.NewDecoder(io.LimitReader(statusR, 1<<20))
	if err := s.handshake(ctx, req); err != nil {
		return nil, errors.Join(err, statusR.Close())
	}
	return s, nil
}

// KeepFiles keeps what this process has inherited beside its standard files from those that it starts, which may live for long: a lock,
// or a pipe whose end somebody waits for. Go's own files are closed on exec anyway. A kernel before 5.11 cannot do it.
func KeepFiles() error {
	err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
	if err != nil && !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("keep other files from the monitor: %w", err)
	}
	return nil
}

// startIn starts a process in a network namespace, or in this one.
func startIn(namespace string, start func() error) error {
	if namespace == "" {
		return start()
	}
	return network.In(namespace, start)
}

// handshake sends the request and waits for the status. On failure the monitor is gone when it returns.
func (s *Spawned) handshake(ctx context.Context, req Request) error {
	stop := context.AfterFunc(ctx, s.Interrupt)
	defer stop()
	sent := make(chan error, 1)
	go func() { sent <- json.NewEncoder(s.lifeline).Encode(req) }()
	var st status
	err := s.status.Decode(&st)
	if err == nil && st.Error == "" {
		return <-sent
	}
	s.lifeline.Close()
	if err == nil {
		_ = s.cmd.Wait()
		return &StartError{Message: st.Error, Code: st.Code, Busy: st.Busy}
	}
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
	return &StartError{Message: fmt.Sprintf("the monitor ended without a word (%s)", s.cmd.ProcessState), Code: ExitFailure}
}

// Interrupt asks the monitor once to end, as the end of Spawn's context does before the container runs.
func (s *Spawned) Interrupt() {
	s.interrupt.Do(func() { _ = s.cmd.Process.Signal(syscall.SIGTERM) }) // fails only when it has ended
}

// Pid is the monitor's process id.
func (s *Spawned) Pid() int { return s.cmd.Process.Pid }

// Signal sends a signal to the monitor, which hands it to the container.
func (s *Spawned) Signal(sig os.Signal) error { return s.cmd.Process.Signal(sig) }

// Wait returns the container's exit code when the monitor has ended, or when the container has and is started again. killed says
// that the monitor was ended by a signal, so that it could not clean up.
func (s *Spawned) Wait() (code int, killed bool, err error) {
	defer s.statusR.Close()
	var st status
	if s.status.Decode(&st) == nil && st.Ended {
		return st.Code, false, nil
	}
	err = s.cmd.Wait()
	s.lifeline.Close()
	if exit := new(exec.ExitError); err == nil || errors.As(err, &exit) {
		ws, _ := s.cmd.ProcessState.Sys().(syscall.WaitStatus)
		if ws.Signaled() {
			return 128 + int(ws.Signal()), true, nil
		}
		return ws.ExitStatus(), false, nil
	}
	return ExitFailure, false, fmt.Errorf("wait for the monitor: %w", err)
}
