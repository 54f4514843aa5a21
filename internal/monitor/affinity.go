package monitor

import (
	"fmt"
	"os/exec"
	"runtime"

	"golang.org/x/sys/unix"
)

// startOn starts a command on these processors of the host; on all that this process has where there are none. What it starts
// inherits them: so a monitor, its VMM and their helpers stay on them.
func startOn(cmd *exec.Cmd, cpus []int) error {
	if len(cpus) == 0 {
		return cmd.Start()
	}
	// A child has the affinity of the thread that forks it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before, want unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return fmt.Errorf("--cpuset-cpus: %w", err)
	}
	for _, n := range cpus {
		if !before.IsSet(n) {
			return fmt.Errorf("--cpuset-cpus: processor %d is not there, or not for this process; see /proc/self/status, "+
				"Cpus_allowed_list", n)
		}
		want.Set(n)
	}
	if err := unix.SchedSetaffinity(0, &want); err != nil {
		return fmt.Errorf("--cpuset-cpus: %w", err)
	}
	defer func() { _ = unix.SchedSetaffinity(0, &before) }() // what was allowed a moment ago
	return cmd.Start()
}
