package guest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/guestapi"
)

// agentPath is the agent's program in the guest.
const agentPath = "/init"

// IsContainerInit says whether this program was started as a container's init, which is its other duty: PID 1 of the container's
// pid namespace, in place of the agent's life.
func IsContainerInit(args []string) bool { return len(args) > 0 && args[0] == guestapi.InitPath }

// ContainerInit runs the command that follows "--", hands signals on to it, reaps what it leaves, and returns its exit code, 128+n
// where signal n ended it. It does what Docker's tini does, with its exit codes.
func ContainerInit(args []string) int {
	if len(args) < 3 || args[1] != "--" {
		fmt.Fprintf(os.Stderr, "usage: %s -- COMMAND [ARG...]\n", guestapi.InitPath)
		return exitFailed
	}
	signals := make(chan os.Signal, 64)
	signal.Notify(signals, forwarded()...)
	// A background process that asks the terminal's owner something must not stop the init.
	signal.Ignore(unix.SIGTTIN, unix.SIGTTOU)
	child, err := startBelowInit(args[2:])
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: exec %q: %v\n", guestapi.InitPath, args[2], err)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, exec.ErrNotFound) {
			return exitNotFound
		}
		return exitNotExecutable
	}
	go func() {
		for s := range signals {
			if n, ok := s.(syscall.Signal); ok {
				_ = unix.Kill(child, n) // fails only when it has ended
			}
		}
	}()
	return reapUntil(child)
}

// forwarded are the signals that a process is sent, without those that stand for a fault of its own and those of Go's runtime.
func forwarded() []os.Signal {
	own := []syscall.Signal{unix.SIGKILL, unix.SIGSTOP, unix.SIGCHLD, unix.SIGURG, unix.SIGTTIN, unix.SIGTTOU,
		unix.SIGFPE, unix.SIGILL, unix.SIGSEGV, unix.SIGBUS, unix.SIGABRT, unix.SIGTRAP, unix.SIGSYS}
	var signals []os.Signal
	for n := syscall.Signal(1); n <= maxSignal; n++ {
		if !slices.Contains(own, n) {
			signals = append(signals, n)
		}
	}
	return signals
}

// startBelowInit runs the command in a process group of its own, which is the terminal's foreground where there is one.
func startBelowInit(args []string) (int, error) {
	path, err := exec.LookPath(args[0])
	if err != nil && !errors.Is(err, exec.ErrDot) {
		return 0, err
	}
	attr := &syscall.SysProcAttr{Setpgid: true}
	if _, err := unix.IoctlGetTermios(0, unix.TCGETS); err == nil {
		attr.Foreground, attr.Ctty = true, 0
	}
	return syscall.ForkExec(path, args, &syscall.ProcAttr{Env: os.Environ(), Files: []uintptr{0, 1, 2}, Sys: attr})
}

// reapUntil takes the exits of all children until the one with this pid has ended.
func reapUntil(child int) int {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			fmt.Fprintf(os.Stderr, "%s: wait: %v\n", guestapi.InitPath, err)
			return exitFailed
		case pid != child:
		case status.Signaled():
			return 128 + int(status.Signal())
		case status.Exited():
			return status.ExitStatus()
		}
	}
}
