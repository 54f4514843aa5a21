package guest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// oomKilled says whether the kernel killed a process of a cgroup, or below it, for lack of memory.
func oomKilled(cgroup string) bool {
	b, err := os.ReadFile(filepath.Join(cgroup, "memory.events"))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		if n, ok := strings.CutPrefix(strings.TrimSpace(line), "oom_kill "); ok {
			return n != "0"
		}
	}
	return false
}

// killCgroup kills every process of a cgroup at once, and below it.
func killCgroup(cgroup string) error {
	err := os.WriteFile(filepath.Join(cgroup, "cgroup.kill"), []byte("1"), 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// signalCgroup sends sig to every process of a cgroup and below it, except to PID 1.
func signalCgroup(cgroup string, sig unix.Signal) error {
	if sig == unix.SIGKILL {
		return killCgroup(cgroup)
	}
	pids, err := cgroupPids(cgroup)
	errs := []error{err}
	for _, pid := range pids {
		if err := unix.Kill(pid, sig); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("signal %d to %d: %w", sig, pid, err))
		}
	}
	return errors.Join(errs...)
}
