package guest

import (
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/runcvm/runcvm/internal/guestapi"
)

// phase is how far a task is. It only grows.
type phase int

const (
	phaseCreating phase = iota
	phaseCreated
	phaseStarting
	phaseRunning
	phaseEnded
	// phaseFailed is a task whose process could not be executed.
	phaseFailed
)

func (p phase) String() string {
	return [...]string{"not created yet", "created", "starting", "running", "ended", "failed"}[p]
}

// task is the life of one process: a container's own, or one that Exec has run.
type task struct {
	// name is for errors and the log.
	name    string
	streams [3]*stream
	// pumps counts the streams that are in use.
	pumps sync.WaitGroup

	mu       sync.Mutex
	phase    phase
	pid      int
	terminal *terminal // nil where the process has none
	// ended is closed when the process has ended and exit is set, or when there will be no process.
	ended chan struct{}
	exit  exit
}

func (t *task) init(name string) {
	t.name, t.ended = name, make(chan struct{})
	for i := range t.streams {
		t.streams[i] = newStream(guestapi.Stream(i))
	}
}

// advance moves the task from one phase to the next, or says why that is not legal.
func (t *task) advance(from, to phase) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.phase != from {
		return status.Errorf(codes.FailedPrecondition, "%s is %s, not %s", t.name, t.phase, from)
	}
	t.phase = to
	return nil
}

// began records the process's pid.
func (t *task) began(pid int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.phase, t.pid = phaseRunning, pid
}

// failed records that the process could not be executed.
func (t *task) failed() {
	t.mu.Lock()
	t.phase = phaseFailed
	t.mu.Unlock()
	close(t.ended)
}

// finish records how the process ended.
func (t *task) finish(e exit) {
	t.mu.Lock()
	t.phase, t.exit = phaseEnded, e
	t.mu.Unlock()
	close(t.ended)
}

// runningPid is the process's pid; it may have ended since.
func (t *task) runningPid() (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.phase != phaseRunning {
		return 0, status.Errorf(codes.FailedPrecondition, "%s is %s, not running", t.name, t.phase)
	}
	return t.pid, nil
}

// requireStarted says whether there is an exit to wait for.
func (t *task) requireStarted() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.phase != phaseRunning && t.phase != phaseEnded {
		return status.Errorf(codes.FailedPrecondition, "%s is %s, not started", t.name, t.phase)
	}
	return nil
}

// waitEnded waits until there is no process, nor will be one.
func (t *task) waitEnded(timeout time.Duration) bool {
	t.mu.Lock()
	idle := t.phase == phaseCreating || t.phase == phaseCreated
	t.mu.Unlock()
	if idle {
		return true
	}
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-t.ended:
		return true
	case <-timer.C:
		return false
	}
}

// resize sets the size of the process's terminal.
func (t *task) resize(size *guestapi.ConsoleSize) error {
	if _, err := t.runningPid(); err != nil {
		return err
	}
	t.mu.Lock()
	terminal := t.terminal
	t.mu.Unlock()
	if terminal == nil {
		return status.Errorf(codes.FailedPrecondition, "%s has no terminal", t.name)
	}
	return terminal.resize(size)
}
