package guest

import (
	"errors"
	"log/slog"
	"maps"
	"os"
	"os/signal"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// exit is how a process ended.
type exit struct {
	// code is 0 to 255; 128+n where signal n ended the process.
	code uint32
	at   time.Time
}

// reaper is the only one in the agent that waits for processes: PID 1 gets everybody's children, so two waiters would take each
// other's. Programs are started by its start and never by os/exec, whose Wait it would rob.
type reaper struct {
	// mu is held while a process is started, so that an exit is never handed out before somebody can have asked for it, and while
	// a signal is sent, so that a pid is never another process's.
	mu      sync.Mutex
	waiting map[int]chan exit
	// unclaimed keeps exits that nobody asked for, for those of holds that are older.
	unclaimed map[int]unclaimed
	holds     map[*hold]bool
	// reaped counts the exits.
	reaped uint64
}

// unclaimed is an exit with its number among all.
type unclaimed struct {
	exit
	number uint64
}

func startReaper() *reaper {
	r := &reaper{waiting: map[int]chan exit{}, unclaimed: map[int]unclaimed{}, holds: map[*hold]bool{}}
	sig := make(chan os.Signal, 1)
	signal.Notify(sig, unix.SIGCHLD)
	go func() {
		for range sig {
			r.reapAll()
		}
	}()
	return r
}

// reapAll takes every exit that there is. One signal may stand for many.
func (r *reaper) reapAll() {
	for r.reapOne() {
	}
}

func (r *reaper) reapOne() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	var status unix.WaitStatus
	pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
	if errors.Is(err, unix.EINTR) {
		return true
	}
	if err != nil || pid <= 0 {
		return false
	}
	e := exit{code: uint32(status.ExitStatus()), at: time.Now()}
	if status.Signaled() {
		e.code = 128 + uint32(status.Signal())
	}
	r.reaped++
	if c, ok := r.waiting[pid]; ok {
		delete(r.waiting, pid)
		c <- e
	} else if len(r.holds) > 0 {
		r.unclaimed[pid] = unclaimed{e, r.reaped}
	}
	return true
}

// start runs f, which starts a process and returns its pid, and returns where its exit will come.
func (r *reaper) start(f func() (int, error)) (pid int, done <-chan exit, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if pid, err = f(); err != nil {
		return 0, nil, err
	}
	return pid, r.register(pid), nil
}

func (r *reaper) register(pid int) <-chan exit {
	c := make(chan exit, 1)
	r.waiting[pid] = c
	return c
}

// hold is a time in which every exit is kept.
type hold struct {
	r *reaper
	// since is the number of exits before it.
	since uint64
}

// hold keeps every exit until release, so that claim finds it: a process that somebody else started may have ended before its pid
// is known here.
func (r *reaper) hold() *hold {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := &hold{r, r.reaped}
	r.holds[h] = true
	return h
}

// release forgets the exits that were kept for this hold alone. It is legal twice.
func (h *hold) release() {
	h.r.mu.Lock()
	defer h.r.mu.Unlock()
	delete(h.r.holds, h)
	oldest := h.r.reaped
	for other := range h.r.holds {
		oldest = min(oldest, other.since)
	}
	maps.DeleteFunc(h.r.unclaimed, func(_ int, u unclaimed) bool { return u.number <= oldest })
}

// claim returns where the exit of a process will come that was started, by somebody else, during the hold.
func (h *hold) claim(pid int) <-chan exit {
	h.r.mu.Lock()
	defer h.r.mu.Unlock()
	u, ended := h.r.unclaimed[pid]
	if !ended || u.number <= h.since { // what is older had the same pid before
		return h.r.register(pid)
	}
	delete(h.r.unclaimed, pid)
	c := make(chan exit, 1)
	c <- u.exit
	return c
}

// signal sends sig to a process that start or claim returned, unless it has ended.
func (r *reaper) signal(pid int, sig unix.Signal) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.waiting[pid]; !ok {
		return unix.ESRCH
	}
	return unix.Kill(pid, sig)
}

// waitExit returns the exit from done, or false after the timeout.
func waitExit(done <-chan exit, timeout time.Duration) (exit, bool) {
	t := time.NewTimer(timeout)
	defer t.Stop()
	select {
	case e := <-done:
		return e, true
	case <-t.C:
		slog.Warn("a process did not end in time", "timeout", timeout)
		return exit{}, false
	}
}
