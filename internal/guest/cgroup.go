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
	var errs []error
	write := func(file, value string) {
		if err := os.WriteFile(filepath.Join(cgroup, file), []byte(value), 0); err != nil {
			errs = append(errs, fmt.Errorf("limit the container: %w", err))
		}
	}
	limit := func(file string, n int64, none string) {
		if n > 0 {
			write(file, strconv.FormatInt(n, 10))
		} else if n < 0 {
			write(file, none)
		}
	}
	limit("memory.max", r.GetMemoryLimit(), "max")
	limit("memory.low", r.GetMemoryReservation(), "0")
	limit("pids.max", r.GetPidsLimit(), "max")
	if w := r.GetCpuWeight(); w != 0 {
		write("cpu.weight", strconv.FormatUint(w, 10))
	}
	if q := r.GetCpuQuota(); q != 0 {
		quota, period := "max", r.GetCpuPeriod()
		if q > 0 {
			quota = strconv.FormatInt(q, 10)
		}
		if period == 0 {
			period = defaultPeriod
		}
		write("cpu.max", fmt.Sprintf("%s %d", quota, period))
	}
	return errors.Join(errs...)
}
