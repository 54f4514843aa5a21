package hostcgroup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"
)

// What engines watch of a container that has run out of memory is its cgroup on the host: the eventfd of memory.oom_control (v1), or
// oom_kill in memory.events (v2). But it was the guest's kernel that killed a process of the container; the host's cgroup, which is
// larger, has seen nothing of that. So the same is made to happen there, in a small way, once the VMM has ended:
//
//	monitor                          stand-in (a child, in the cgroup)
//	   │ ── fork, exec ────────────────>  oom_score_adj = 1000: the kernel takes it before anybody else
//	   │ <─ "ready" ───────────────────
//	   │ limit = what is used + 4 MiB
//	   │ ── "go" ──────────────────────>  takes memory until the kernel kills it: the event
//	   │ <─ SIGKILL ───────────────────
//	   │ limit as before
//
// With the VMM alive the lower limit could hit the guest.

const (
	// StandIn is the first argument with which a monitor's program is run to be RunStandIn.
	StandIn = "oom-stand-in"

	// oomRoom is what the stand-in may take beyond what is used, in bytes: its own start needs some of it.
	oomRoom = 4 << 20
	// oomStep is how much it takes at a time.
	oomStep = 1 << 20
	// oomNotice is how long the kernel may keep the last change of memory.events from those who watch it, and some time for them to
	// read it while the cgroup is there: CGROUP_FILE_NOTIFY_MIN_INTV of kernel/cgroup/cgroup.c is 10 ms.
	oomNotice = 50 * time.Millisecond
	// mostScore is the highest oom_score_adj (proc(5)).
	mostScore = "1000"
)

// ReportOOM lets those who watch the cgroup see that the container was short of memory. The monitor calls it, in the cgroup, when the VMM
// has ended and nobody else is in there. program is the monitor's own, with the arguments that make it RunStandIn.
func (c *Cgroup) ReportOOM(ctx context.Context, program string, args ...string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("report the lack of memory by the host's cgroup: %w", err)
		}
	}()
	limits, err := c.memoryLimits()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, program, args...)
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	_, readyErr := io.ReadFull(out, make([]byte, 1))
	if readyErr == nil {
		readyErr = limits.lower()
	}
	if readyErr != nil {
		in.Close()
		return errors.Join(readyErr, cmd.Wait(), limits.restore())
	}
	_, goErr := in.Write([]byte{'\n'})
	in.Close()
	waitErr := cmd.Wait()
	err = limits.restore()
	ws, _ := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !ws.Signaled() || ws.Signal() != unix.SIGKILL || ctx.Err() != nil {
		return errors.Join(err, goErr, waitErr, ctx.Err(), errors.New("the kernel did not kill what took the memory"))
	}
	time.Sleep(oomNotice)
	return err
}

// RunStandIn takes memory until the kernel kills it, or until it has all that it was allowed to.
func RunStandIn() error {
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte(mostScore), 0); err != nil {
		return err
	}
	if _, err := os.Stdout.Write([]byte{'\n'}); err != nil {
		return err
	}
	if _, err := io.ReadFull(os.Stdin, make([]byte, 1)); err != nil {
		return nil //nolint:nilerr // the monitor has changed its mind
	}
	info := unix.Sysinfo_t{}
	if err := unix.Sysinfo(&info); err != nil {
		return err
	}
	// All of the machine's is never taken: the limit comes first.
	for taken := uint64(0); taken < info.Totalram*uint64(info.Unit); taken += oomStep {
		// Locked, so that it is not swapped out.
		_, err := unix.Mmap(-1, 0, oomStep, unix.PROT_READ|unix.PROT_WRITE,
			unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE|unix.MAP_LOCKED)
		if err != nil {
			return err
		}
	}
	return errors.New("took all of the machine's memory")
}

// memoryLimit is the file of a cgroup's limit, and what it has held.
type memoryLimit struct {
	dir, usage, limit, reclaim string
	was                        string
}

func (c *Cgroup) memoryLimits() (*memoryLimit, error) {
	l := &memoryLimit{
		dir: c.manager.Path("memory"), usage: "memory.usage_in_bytes", limit: "memory.limit_in_bytes", reclaim: "memory.force_empty",
	}
	if cgroups.IsCgroup2UnifiedMode() {
		l.usage, l.limit, l.reclaim = "memory.current", "memory.max", "memory.reclaim"
	}
	if l.dir == "" || !cgroups.PathExists(filepath.Join(l.dir, l.limit)) {
		return nil, errors.New("the host has no memory controller here")
	}
	var err error
	l.was, err = cgroups.ReadFile(l.dir, l.limit)
	l.was = strings.TrimSpace(l.was)
	return l, err
}

// lower leaves little room above what is used. What can be given back is given back first, so that little is used: the caches of the
// container's disks, above all.
func (l *memoryLimit) lower() error {
	used, err := l.used()
	if err != nil {
		return err
	}
	// As much as the kernel can; less than asked for is an error of its own, which does not matter.
	_ = cgroups.WriteFile(l.dir, l.reclaim, strconv.FormatUint(used, 10))
	if used, err = l.used(); err != nil {
		return err
	}
	return cgroups.WriteFile(l.dir, l.limit, strconv.FormatUint(used+oomRoom, 10))
}

func (l *memoryLimit) used() (uint64, error) {
	text, err := cgroups.ReadFile(l.dir, l.usage)
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(strings.TrimSpace(text), 10, 64)
}

func (l *memoryLimit) restore() error { return cgroups.WriteFile(l.dir, l.limit, l.was) }
