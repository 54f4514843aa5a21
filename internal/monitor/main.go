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
	"sync/atomic"
	"syscall"

	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/cni"
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
	m, err := newMonitor(os.NewFile(requestFD, "request"), statusPipe, signals)
	if err == nil {
		defer func() { _ = m.log.Close() }() // nothing is left to tell
		if m.req.Maintain {
			return m.maintain(context.Background())
		}
		if m.req.Bundle != nil {
			return m.runBundle(context.Background())
		}
		l, err = m.start(context.Background())
	}
	report(statusPipe, err, m != nil && !m.req.Detach)
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
	// status is where the caller hears of the container.
	status *os.File
	// callerGone is closed when the caller of a container that is not detached has ended.
	callerGone chan struct{}
	// detached is closed when the caller has left the container to itself.
	detached chan struct{}

	files  *container.Handle
	log    *logfile.File
	logger *slog.Logger
	output *logfile.File
	server *server
	// networks are those that a container is connected to by CNI plugins; nil where there are none.
	networks *cni.Session
	// hub is where people attach, by attachSocket.
	hub          *attach.Hub
	attachSocket net.Listener

	// stops takes wishes for the container's end; who is about the container at the moment hears them.
	stops chan stopWish
	// life is the one whose process runs; nil while there is none.
	life atomic.Pointer[life]
	// over is closed when the container has ended and is not started again.
	over chan struct{}

	mu     sync.Mutex // of what follows
	record container.Record
	// before is the state of a container that was there already, until it runs.
	before   *container.Record
	restarts *restarts
	wish     *restartWish
}

func newMonitor(request, statusPipe *os.File, signals chan os.Signal) (*monitor, error) {
	syscall.CloseOnExec(requestFD)
	syscall.CloseOnExec(statusFD)
	syscall.CloseOnExec(attachFD)
	syscall.CloseOnExec(hostNetFD)
	container.BootID() // as the caller's /proc tells it
	pid, err := ownProc()
	if err != nil {
		return nil, err
	}
	m := &monitor{
		signals: signals, status: statusPipe, callerGone: make(chan struct{}), detached: make(chan struct{}),
		stops: make(chan stopWish), over: make(chan struct{}),
	}
	decoder := json.NewDecoder(request)
	if err := decoder.Decode(&m.req); err != nil {
		return nil, fmt.Errorf("read the request: %w", err)
	}
	if !m.req.Detach {
		go watchCaller(io.MultiReader(decoder.Buffered(), request), m.callerGone, m.detached)
	}
	if m.cfg, err = config.FromValues(m.req.Settings); err != nil {
		return nil, err
	}
	m.restarts = newRestarts(m.req.Restart)
	if err := m.own(context.Background(), pid); err != nil {
		return nil, err
	}
	// Sockets are reached by relative names: see firecracker.Options.
	if err := os.Chdir(m.files.RunDir); err != nil {
		return nil, errors.Join(fmt.Errorf("enter the run directory: %w", err), m.giveBack(nil))
	}
	if m.log, err = logfile.Append(m.path(container.MonitorLog), monitorLogLimit); err != nil {
		return nil, errors.Join(err, m.giveBack(nil))
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

// report tells the caller how the start went. Who waits for the container hears of its end, too, by the pipe's end at the latest.
func report(pipe *os.File, err error, stays bool) {
	var st status
	if err != nil {
		st = status{Error: err.Error(), Code: exitCode(err), Busy: errors.Is(err, container.ErrOwned)}
	}
	_ = json.NewEncoder(pipe).Encode(st) // a caller that is gone is noticed elsewhere
	if err != nil || !stays {
		pipe.Close()
	}
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

// event writes that something has happened to the container. An event that cannot be written is logged: the container matters more.
func (m *monitor) event(action string, attributes ...string) {
	m.mu.Lock()
	r := m.record
	m.mu.Unlock()
	all := map[string]string{}
	for i := 0; i+1 < len(attributes); i += 2 {
		all[attributes[i]] = attributes[i+1]
	}
	if err := m.files.Event(r, action, all); err != nil {
		m.logger.Warn("an event is lost", "error", err)
	}
}
