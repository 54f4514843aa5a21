package monitor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/config"
	"github.com/runcvm/runcvm/internal/container"
	"github.com/runcvm/runcvm/internal/logfile"
	"github.com/runcvm/runcvm/internal/monitor/attach"
	"github.com/runcvm/runcvm/internal/sandbox"
)

// Main runs the monitor of one container and returns its exit code. The process must have been made by Spawn.
func Main() int {
	signals := Signals()
	// A reader of the container's output that is gone is an error of the write, not the end of the monitor.
	signal.Ignore(syscall.SIGPIPE)
	statusPipe := os.NewFile(statusFD, "status")
	var l *life
	m, err := newMonitor(os.NewFile(requestFD, "request"), signals)
	if err == nil {
		defer func() { _ = m.log.Close() }() // nothing is left to tell
		l, err = m.start(context.Background())
	}
	report(statusPipe, err)
	if err != nil {
		return exitCode(err)
	}
	go func() {
		// What the start alone needed, above all where it built an image's disk. Twice: a sync.Pool outlives one collection.
		debug.FreeOSMemory()
		debug.FreeOSMemory()
	}()
	return m.supervise(context.Background(), l)
}

// monitor is the state of this process: one container, over all of its lives.
type monitor struct {
	req     Request
	cfg     *config.Config
	signals chan os.Signal
	// callerGone is closed when the caller of a container that is not detached has ended.
	callerGone chan struct{}

	files  *container.Handle
	log    *logfile.File
	logger *slog.Logger
	output *logfile.File
	server *server
	// hub is where people attach, by attachSocket.
	hub          *attach.Hub
	attachSocket net.Listener

	mu     sync.Mutex // record's
	record container.Record
}

func newMonitor(request *os.File, signals chan os.Signal) (*monitor, error) {
	syscall.CloseOnExec(requestFD)
	syscall.CloseOnExec(statusFD)
	syscall.CloseOnExec(attachFD)
	pid, err := ownProc()
	if err != nil {
		return nil, err
	}
	m := &monitor{signals: signals, callerGone: make(chan struct{})}
	decoder := json.NewDecoder(request)
	if err := decoder.Decode(&m.req); err != nil {
		return nil, fmt.Errorf("read the request: %w", err)
	}
	if !m.req.Detach {
		go m.watchCaller(io.MultiReader(decoder.Buffered(), request))
	}
	if m.cfg, err = config.FromValues(m.req.Settings); err != nil {
		return nil, err
	}
	m.record = container.Record{
		ID: m.req.ID, Name: m.req.Name, Image: m.req.Image, Created: time.Now(), State: string(sandbox.Creating),
		Pid: pid, Remove: m.req.Remove,
	}
	m.files, err = container.New(m.cfg.DataDir, m.cfg.RunDir).Create(context.Background(), m.record)
	if err != nil {
		return nil, err
	}
	// Sockets are reached by relative names: see firecracker.Options.
	if err := os.Chdir(m.files.RunDir); err != nil {
		return nil, errors.Join(fmt.Errorf("enter the run directory: %w", err), m.files.Close(m.req.Name, true))
	}
	if m.log, err = logfile.Create(m.path(container.MonitorLog), monitorLogLimit); err != nil {
		return nil, errors.Join(err, m.files.Close(m.req.Name, true))
	}
	m.logger = slog.New(slog.NewTextHandler(m.log, &slog.HandlerOptions{Level: level(m.cfg.LogLevel)}))
	slog.SetDefault(m.logger)
	// ttrpc writes what a guest does wrong to standard error, which is the container's.
	log.L.Logger.SetOutput(m.log)
	return m, nil
}

// monitorLogLimit bounds the monitor's own log on disk, in bytes.
const monitorLogLimit = 1 << 20

func level(name string) slog.Level {
	var l slog.Level
	_ = l.UnmarshalText([]byte(name)) // checked by the configuration
	return l
}

func (m *monitor) path(name string) string { return filepath.Join(m.files.Dir, name) }

// ownProc gives the monitor a /proc that shows its own pid namespace, and returns its pid in the host's.
func ownProc() (int, error) {
	self, err := os.Readlink("/proc/self")
	if err != nil {
		return 0, fmt.Errorf("find the own pid: %w", err)
	}
	pid, err := strconv.Atoi(self)
	if err != nil {
		return 0, fmt.Errorf("find the own pid: %w", err)
	}
	if os.Getpid() != 1 {
		return 0, fmt.Errorf("the monitor is pid %d of its namespace instead of 1: it is run by runcvm, not by hand", os.Getpid())
	}
	err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	if errors.Is(err, unix.EINVAL) {
		// After a chroot, / need not be a mount point. The one mount that follows is on /proc, which is one.
		err = unix.Mount("", "/proc", "", unix.MS_REC|unix.MS_PRIVATE, "")
	}
	if err != nil {
		return 0, fmt.Errorf("make the mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NOEXEC|unix.MS_NODEV, ""); err != nil {
		return 0, fmt.Errorf("mount /proc: %w", err)
	}
	return pid, nil
}

// report tells the caller how the start went.
func report(pipe *os.File, err error) {
	var st status
	if err != nil {
		st = status{Error: err.Error(), Code: exitCode(err)}
	}
	_ = json.NewEncoder(pipe).Encode(st) // a caller that is gone is noticed elsewhere
	pipe.Close()
}

func exitCode(err error) int {
	if exec := new(sandbox.ExecError); errors.As(err, &exec) {
		return exec.Code
	}
	return ExitFailure
}

// update changes the container's record; a record that cannot be written is logged: the container matters more.
func (m *monitor) update(change func(*container.Record)) {
	m.mu.Lock()
	before := m.record
	change(&m.record)
	after := m.record
	if err := m.files.Update(m.record); err != nil {
		m.logger.Error("container's state not written", "error", err)
	}
	m.mu.Unlock()
	m.tellAttached(before, after)
}
