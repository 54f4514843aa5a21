package guest

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// spawn starts a shell with the reaper's lock held, as the agent starts crun.
func spawn(script string, files ...uintptr) func() (int, error) {
	return func() (int, error) {
		return syscall.ForkExec("/bin/sh", []string{"sh", "-c", script},
			&syscall.ProcAttr{Files: append([]uintptr{0, 1, 2}, files...)})
	}
}

func TestReaper(t *testing.T) {
	r := startReaper()
	t.Run("hands out how each process ended", func(t *testing.T) {
		for script, code := range map[string]uint32{"exit 0": 0, "exit 7": 7, "exit 255": 255, "kill -9 $$": 137, "kill -15 $$": 143} {
			_, done, err := r.start(spawn(script))
			if err != nil {
				t.Fatal(err)
			}
			e, ok := waitExit(done, 10*time.Second)
			if !ok || e.code != code || time.Since(e.at) > time.Minute {
				t.Errorf("%s: %+v, want code %d", script, e, code)
			}
		}
	})
	t.Run("tells many that end at once apart", func(t *testing.T) {
		exits := map[uint32]<-chan exit{}
		for code := range uint32(50) {
			_, done, err := r.start(spawn("exit " + strconv.Itoa(int(code))))
			if err != nil {
				t.Fatal(err)
			}
			exits[code] = done
		}
		for code, done := range exits {
			if e, ok := waitExit(done, 20*time.Second); !ok || e.code != code {
				t.Errorf("%+v, want code %d", e, code)
			}
		}
	})
	t.Run("keeps the exit of an orphan during a hold, and no longer", func(t *testing.T) {
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
			t.Fatal(err)
		}
		h := r.hold()
		pid := orphan(t, r)
		for !r.hasUnclaimed(pid) {
			time.Sleep(time.Millisecond)
		}
		if e, ok := waitExit(h.claim(pid), 10*time.Second); !ok || e.code != 5 {
			t.Errorf("%+v, want code 5", e)
		}
		pid = orphan(t, r)
		for !r.hasUnclaimed(pid) {
			time.Sleep(time.Millisecond)
		}
		h.release()
		if r.hasUnclaimed(pid) {
			t.Error("an exit that nobody asked for is kept for ever")
		}
	})
	t.Run("signals only what runs", func(t *testing.T) {
		pid, done, err := r.start(spawn("exec sleep 100"))
		if err != nil {
			t.Fatal(err)
		}
		if err := r.signal(pid, unix.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if e, ok := waitExit(done, 10*time.Second); !ok || e.code != 143 {
			t.Errorf("%+v, want code 143", e)
		}
		if err := r.signal(pid, unix.SIGTERM); !errors.Is(err, unix.ESRCH) {
			t.Errorf("signal to an ended process: %v", err)
		}
	})
	t.Run("returns the error of a start", func(t *testing.T) {
		if _, _, err := r.start(func() (int, error) {
			return syscall.ForkExec("/nonexistent", []string{"x"}, nil)
		}); !errors.Is(err, unix.ENOENT) {
			t.Errorf("%v", err)
		}
	})
}

// orphan makes a process that ends with code 5 and whose parent has ended before, and returns its pid.
func orphan(t *testing.T, r *reaper) int {
	t.Helper()
	pr, pw, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer pr.Close()
	_, done, err := r.start(spawn(`sh -c 'echo $$ >&3; exec 3>&-; read x < /dev/null; sleep 0.05; exit 5' & exit 0`, pw.Fd()))
	pw.Close()
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := waitExit(done, 10*time.Second); !ok {
		t.Fatal("the parent did not end")
	}
	line := make([]byte, 32)
	n, err := pr.Read(line)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(line[:n])))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

func (r *reaper) hasUnclaimed(pid int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.unclaimed[pid]
	return ok
}
