package guest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"syscall"
	"unsafe"

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
	if len(args) < 3 || args[1] != "--" && args[1] != foregroundStage {
		fmt.Fprintf(os.Stderr, "usage: %s -- COMMAND [ARG...]\n", guestapi.InitPath)
		return exitFailed
	}
	if args[1] == foregroundStage {
		return execInForeground(args[2:])
	}
	signals := make(chan os.Signal, 64)
	signal.Notify(signals, forwarded()...)
	child, err := startBelowInit(args[2:])
	if err != nil {
		return initFault(args[2], err)
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
	path, err := lookPath(args[0])
	if err != nil {
		return 0, err
	}
	attr := &syscall.SysProcAttr{Setpgid: true}
	if _, err := unix.IoctlGetTermios(0, unix.TCGETS); err == nil {
		// Who takes the foreground is in the background, and must ignore the signal that says so. The command itself must not, so
		// this program comes once more between the two.
		signal.Ignore(unix.SIGTTIN, unix.SIGTTOU)
		attr.Foreground, attr.Ctty = true, 0
		path, args = "/proc/self/exe", append([]string{guestapi.InitPath, foregroundStage}, args...)
	}
	return syscall.ForkExec(path, args, &syscall.ProcAttr{Env: os.Environ(), Files: []uintptr{0, 1, 2}, Sys: attr})
}

// foregroundStage is, in the place of "--", the step between the init and a command with a terminal.
const foregroundStage = "--foreground"

// execInForeground becomes the command. It returns only when that fails.
func execInForeground(args []string) int {
	for _, n := range []unix.Signal{unix.SIGTTIN, unix.SIGTTOU} {
		// struct kernel_sigaction of x86-64 with SIG_DFL (rt_sigaction(2)); os/signal would leave a handler.
		var action [32]byte
		_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(n), uintptr(unsafe.Pointer(&action)), 0, 8, 0, 0)
	}
	path, err := lookPath(args[0])
	if err == nil {
		err = syscall.Exec(path, args, os.Environ())
	}
	return initFault(args[0], err)
}

func lookPath(name string) (string, error) {
	path, err := exec.LookPath(name)
	if errors.Is(err, exec.ErrDot) {
		err = nil // a relative entry of PATH, as execvp(3) takes it
	}
	return path, err
}

// initFault says why the command does not run, and returns the exit code.
func initFault(name string, err error) int {
	fmt.Fprintf(os.Stderr, "%s: exec %q: %v\n", guestapi.InitPath, name, err)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, exec.ErrNotFound) {
		return exitNotFound
	}
	return exitNotExecutable
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
