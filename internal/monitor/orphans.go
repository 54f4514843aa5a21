package monitor

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// orphanTimeout is how long a VMM's helpers may take to be gone after it: the kernel kills them with it, and frees their memory.
	orphanTimeout = 10 * time.Second
	orphanPause   = 5 * time.Millisecond
)

// reapOrphans waits until what a VMM that has ended left behind is gone: the next one must not find a disk in use. The monitor, PID
// 1 of its pid namespace, is the parent of the VMM's helpers then. It has no children of its own at that moment.
func reapOrphans() error {
	for end := time.Now().Add(orphanTimeout); ; time.Sleep(orphanPause) {
		left, err := orphans()
		if err != nil || len(left) == 0 {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("processes of the last VMM are left: %v", left)
		}
	}
}

// orphans reaps the children that have ended, and returns those that have not.
func orphans() ([]int, error) {
	dirs, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("look for processes of the last VMM: %w", err)
	}
	var left []int
	for _, d := range dirs {
		pid, err := strconv.Atoi(d.Name())
		if err != nil || pid == os.Getpid() || parentOf(pid) != os.Getpid() {
			continue
		}
		// One child at a time: what somebody else waits for is not taken away from them.
		if reaped, err := unix.Wait4(pid, nil, unix.WNOHANG, nil); err == nil && reaped == 0 {
			left = append(left, pid)
		}
	}
	return left, nil
}

// parentOf is a process's parent; 0 where it is gone.
func parentOf(pid int) int {
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0
	}
	// After the name, in parentheses, come state and parent (proc(5)).
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 2 {
		return 0
	}
	parent, _ := strconv.Atoi(fields[1])
	return parent
}
