package guest

import (
	"errors"
	"log/slog"
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
	// unclaimed keeps exits that nobody asked for while holds is above 0; see hold.
	unclaimed map[int]exit
	holds     int
}

func startReaper() *reaper {
	r := &reaper{waiting: map[int]chan exit{}, unclaimed: map[int]exit{}}
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
	if c, ok := r.waiting[pid]; ok {
		delete(r.waiting, pid)
		c <- e
	} else if r.holds > 0 {
		r.unclaimed[pid] = e
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

// hold keeps every exit until release, so that claim finds it: a process that somebody else started may have ended before its pid
// is known here.
func (r *reaper) hold() (release func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.holds++
	return sync.OnceFunc(func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.holds--; r.holds == 0 {
			clear(r.unclaimed)
		}
	})
}

// claim returns where the exit of a process will come that was started, by somebody else, during a hold that still lasts.
func (r *reaper) claim(pid int) <-chan exit {
	r.mu.Lock()
	defer r.mu.Unlock()
	e, ended := r.unclaimed[pid]
	if !ended {
		return r.register(pid)
	}
	delete(r.unclaimed, pid)
	c := make(chan exit, 1)
	c <- e
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
