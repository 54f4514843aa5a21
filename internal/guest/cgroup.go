package guest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/guestapi"
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

// defaultPeriod is the period of a CPU quota in microseconds, the kernel's default.
const defaultPeriod = 100_000

// writeLimits changes limits of a cgroup: the files of the kernel's Documentation/admin-guide/cgroup-v2.rst.
func writeLimits(cgroup string, r *guestapi.UpdateRequest) error {
	w := &limitsWriter{cgroup: cgroup}
	w.limit("memory.max", r.GetMemoryLimit(), "max")
	w.limit("memory.low", r.GetMemoryReservation(), "0")
	w.limit("pids.max", r.GetPidsLimit(), "max")
	// Before the weight, of which one that is idle has none.
	w.limit("cpu.idle", r.GetCpuIdle(), "0")
	if n := r.GetCpuWeight(); n != 0 {
		w.write("cpu.weight", strconv.FormatUint(n, 10))
	}
	w.cpuMax(r)
	return errors.Join(w.errs...)
}

// limitsWriter writes files of a cgroup, and goes on after an error.
type limitsWriter struct {
	cgroup string
	errs   []error
}

func (w *limitsWriter) write(file, value string) {
	if err := w.try(file, value); err != nil {
		w.errs = append(w.errs, fmt.Errorf("limit the container: %w", err))
	}
}

func (w *limitsWriter) try(file, value string) error {
	return os.WriteFile(filepath.Join(w.cgroup, file), []byte(value), 0)
}

// limit writes a number, or what stands for none. A file that the kernel does not have holds none.
func (w *limitsWriter) limit(file string, n int64, none string) {
	if n > 0 {
		w.write(file, strconv.FormatInt(n, 10))
	} else if n < 0 {
		if _, err := os.Lstat(filepath.Join(w.cgroup, file)); !errors.Is(err, fs.ErrNotExist) {
			w.write(file, none)
		}
	}
}

// cpuMax limits the processor time. The kernel takes no burst above the quota: which of the two comes first depends on which grows.
func (w *limitsWriter) cpuMax(r *guestapi.UpdateRequest) {
	if r.GetCpuBurst() < 0 {
		w.limit("cpu.max.burst", -1, "0")
	} else if n := r.GetCpuBurst(); n > 0 {
		_ = w.try("cpu.max.burst", strconv.FormatInt(n, 10)) // it is written again, and then has to be taken
	}
	if q := r.GetCpuQuota(); q != 0 {
		quota, period := "max", r.GetCpuPeriod()
		if q > 0 {
			quota = strconv.FormatInt(q, 10)
		}
		if period == 0 {
			period = defaultPeriod
		}
		w.write("cpu.max", fmt.Sprintf("%s %d", quota, period))
	}
	if n := r.GetCpuBurst(); n > 0 {
		w.write("cpu.max.burst", strconv.FormatInt(n, 10))
	}
}
