package guest

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// openRoot opens the root directory that the container's processes see, with every mount on it; before there are any, the one that
// they will see.
func (a *agent) openRoot(c *container) (*os.File, error) {
	c.mu.Lock()
	phase, pid := c.phase, c.pid
	c.mu.Unlock()
	switch phase {
	case phaseCreated:
		return openPath(c.rootfs())
	case phaseRunning:
		root, err := a.namespaceRoot(pid)
		if errors.Is(err, unix.ESRCH) {
			return nil, status.Errorf(codes.FailedPrecondition, "the process of container %s has ended", c.id)
		}
		return root, err
	}
	return nil, status.Errorf(codes.FailedPrecondition, "container %s is %s", c.id, phase)
}

func openPath(path string) (*os.File, error) {
	return os.OpenFile(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}

// namespaceRoot opens the root of a process's mount namespace, which the process itself cannot choose as it can by chroot(2) that of
// /proc/PID/root. ESRCH says that it has ended.
func (a *agent) namespaceRoot(pid int) (*os.File, error) {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(pidfd)
	// The descriptor is that of the container's process only if that has not been reaped until now.
	if err := a.reaper.signal(pid, 0); err != nil {
		return nil, err
	}
	var root *os.File
	onThreadOfItsOwn(func() {
		err = unix.Unshare(unix.CLONE_FS) // setns(2) asks for it
		if err == nil {
			err = unix.Setns(pidfd, unix.CLONE_NEWNS)
		}
		if err == nil {
			root, err = openPath("/")
		}
	})
	if err != nil {
		return nil, fmt.Errorf("enter the container's mount namespace: %w", err)
	}
	return root, nil
}

// onThreadOfItsOwn runs f on a thread that is not given back: it ends with f. That is never the main one, which Go does not end: it
// would stay what f has made of it, and keep a namespace's mounts for ever.
func onThreadOfItsOwn(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			onThreadOfItsOwn(f) // while this one is taken
			runtime.UnlockOSThread()
			return
		}
		f()
	}()
	<-done
}
