package monitor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/container"
	"github.com/runcvm/runcvm/internal/monitor/api"
)

const (
	// EndTimeout is how long a monitor may take to end its sandbox before it is killed itself: the guest's deadline for a
	// signal and for an orderly shutdown.
	EndTimeout = 30 * time.Second
	// askTimeout bounds the asking.
	askTimeout = 5 * time.Second
)

// End ends a container through its monitor, or with its monitor where that does not answer. It returns when the monitor is gone.
func End(ctx context.Context, e *container.Entry) error {
	pidfd, err := Pidfd(e)
	if err != nil {
		return err
	}
	if pidfd < 0 {
		if again, err := e.Again(); err == nil && again.Alive && again.Pid != e.Pid {
			return End(ctx, again) // it was started again meanwhile
		}
		return nil
	}
	defer unix.Close(pidfd)
	asked := askToKill(ctx, e)
	if asked == nil && ended(pidfd, EndTimeout) {
		return nil
	}
	if err := unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return errors.Join(fmt.Errorf("kill the monitor of %s: %w", e.Name, err), asked)
	}
	// The processes of its pid namespace, the VMM among them, end before it does.
	if !ended(pidfd, EndTimeout) {
		return errors.Join(fmt.Errorf("the monitor of %s (pid %d) does not end", e.Name, e.Pid), asked)
	}
	return nil
}

func askToKill(ctx context.Context, e *container.Entry) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	c, err := Dial(ctx, e)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }() // all that was asked for is answered
	_, err = c.Kill(ctx, &api.KillRequest{})
	return err
}

// Pidfd returns a descriptor of the monitor that e was found with, or -1 where that monitor has ended.
func Pidfd(e *container.Entry) (int, error) {
	pidfd, err := unix.PidfdOpen(e.Pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return -1, nil
	}
	if err != nil {
		return -1, fmt.Errorf("reach the monitor of %s: %w", e.Name, err)
	}
	// The pid was that monitor's when the descriptor was taken only if it still lives now, and is not a later one of the container.
	if again, err := e.Again(); err != nil || !again.Alive || again.Pid != e.Pid {
		unix.Close(pidfd)
		return -1, nil //nolint:nilerr // a container that is gone has no monitor
	}
	return pidfd, nil
}

// AwaitEnd waits for the end of a container's monitor, for as long as that takes.
func AwaitEnd(ctx context.Context, e *container.Entry) error {
	pidfd, err := Pidfd(e)
	if err != nil || pidfd < 0 {
		return err
	}
	defer unix.Close(pidfd)
	return AwaitPidfd(ctx, pidfd)
}

// AwaitPidfd waits for the end of the monitor that pidfd refers to, for as long as that takes.
func AwaitPidfd(ctx context.Context, pidfd int) error {
	const look = time.Second
	for ctx.Err() == nil {
		if ended(pidfd, look) {
			return nil
		}
	}
	return ctx.Err()
}

// ended waits until the process is gone.
func ended(pidfd int, timeout time.Duration) bool {
	deadline := time.Now().Add(timeout)
	for {
		left := max(time.Until(deadline), 0)
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, int(left.Milliseconds()))
		if !errors.Is(err, unix.EINTR) {
			return n == 1
		}
	}
}
