package guest

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// killTimeout is how long killed processes may take to be gone.
	killTimeout = 10 * time.Second
	// answerTimeout is how long the answer to Shutdown may take to reach the host.
	answerTimeout = 300 * time.Millisecond
)

// shutdown kills what runs and unmounts every disk; the guest reboots soon after its answer.
func (a *agent) shutdown() error {
	defer func() { go a.endSoon() }()
	errs := []error{a.copies.stop()}
	for _, c := range a.state.close() {
		if err := killCgroup(c.cgroup()); err != nil {
			errs = append(errs, fmt.Errorf("kill container %s: %w", c.id, err))
		}
		if !c.waitEnded(killTimeout) {
			errs = append(errs, fmt.Errorf("container %s did not end within %s of SIGKILL", c.id, killTimeout))
		}
		if err := c.unmount(); err != nil {
			errs = append(errs, err)
		}
	}
	unix.Sync()
	err := errors.Join(errs...)
	if err != nil {
		slog.Error("shutdown is not clean", "error", err)
	}
	return err
}

// endSoon ends the guest once the host has the answer to Shutdown, which it shows by closing its connection.
func (a *agent) endSoon() {
	select {
	case <-a.calls.None():
	case <-time.After(answerTimeout):
	}
	a.end()
}
