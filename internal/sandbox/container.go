package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/runcvm/runcvm/internal/guestapi"
)

// Container is one container of a sandbox.
type Container struct {
	s *Sandbox
	h handle

	mu    sync.Mutex
	state State
	// freezing is held while the container is paused or resumed.
	freezing sync.Mutex

	stdio     *Stdio
	abandoned chan struct{}
	abandon   sync.Once
}

// Streams are the ends of a process's standard files on the host. A nil one is /dev/null in the guest.
type Streams struct {
	Stdin          io.ReadCloser
	Stdout, Stderr io.Writer
	// Size is of the terminal, where the container has one.
	Size Size
}

// Exit is how a container ended.
type Exit struct {
	Code      int // 0 to 255; 128+n for signal n
	OOMKilled bool
	// Err is set where the container ended otherwise than by its process: the VMM or the agent is gone.
	Err error
}

// ExecError says that the container's process could not be executed.
type ExecError struct {
	Code    int // 125, 126 or 127, as a shell and Docker have it
	Message string
}

func (e *ExecError) Error() string { return e.Message }

const (
	// exitVMMKilled is the exit code of a container whose VMM is gone: 128 + SIGKILL.
	exitVMMKilled = 137
	// exitLie is the exit code of a container whose agent names one that there is not, as of one that could not be run.
	exitLie = 125
)

// Disks are a container's disks, which are among those of Boot, by their file systems' UUIDs.
type Disks struct {
	Image, Rootfs string
	// Start is that of the start's own disk; it may be empty.
	Start string
}

// Create mounts the container's disks in the guest.
func (s *Sandbox) Create(ctx context.Context, id string, disks Disks) (*Container, error) {
	defer s.cfg.Timeline.Phase("mounts")()
	c := &Container{s: s, h: handle{s: s, container: id}, state: Creating, abandoned: make(chan struct{})}
	c.stdio = newStdio(s.cfg.Vsock, id, "", s.cfg.Log)
	c.stdio.silence = s.drainTimeout
	ctx, cancel := s.within(ctx, "mounted the disks")
	defer cancel()
	_, err := s.agent.Create(ctx, &guestapi.CreateRequest{ContainerId: id,
		ImageUuid: disks.Image, RootfsUuid: disks.Rootfs, StartUuid: disks.Start})
	if err != nil {
		return nil, s.evidence(fmt.Errorf("create the container in the guest: %w", s.bootError(ctx, err)))
	}
	return c, c.transition(Created)
}

func (c *Container) transition(next State) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.state.to(next); err != nil {
		return err
	}
	c.state = next
	return nil
}

// State is the container's.
func (c *Container) State() State {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state
}

// Start opens the streams and runs the process. An *ExecError says that it could not be executed.
func (c *Container) Start(ctx context.Context, streams Streams) error {
	if state := c.State(); state != Created {
		return fmt.Errorf("start: the container is %s: %w", state, ErrTransition)
	}
	defer c.s.cfg.Timeline.Phase("process")()
	bounded, cancel := c.s.within(ctx, "run the process")
	defer cancel()
	// The first failure, of the streams or of the process, is the cause of all others.
	ctx, fail := context.WithCancelCause(bounded)
	defer fail(nil)
	opened := make(chan struct{})
	go func() {
		defer close(opened)
		if err := c.stdio.open(ctx, streams); err != nil {
			fail(err)
		}
	}()
	answer, err := c.s.agent.Start(ctx, &guestapi.StartRequest{
		ContainerId: c.h.container, Stdin: streams.Stdin != nil, Stdout: streams.Stdout != nil, Stderr: streams.Stderr != nil,
		UnixNanos: time.Now().UnixNano(), ConsoleSize: streams.Size.message(),
	})
	if err != nil {
		fail(err)
	}
	<-opened
	if err := context.Cause(ctx); err != nil {
		return c.s.evidence(fmt.Errorf("start the container's process: %w", c.s.bootError(bounded, err)))
	}
	if text := answer.GetError(); text != "" {
		return &ExecError{Code: execCode(answer.GetErrorCode()), Message: clean(text, maxGuestText)}
	}
	return c.transition(Running)
}

func execCode(code uint32) int {
	if code == 126 || code == 127 {
		return int(code)
	}
	return 125
}

// Wait returns when the process has ended and its output has been written to the last byte. A VMM or an agent that is
// gone is an exit as well, and so is Abandon. It returns an error only when ctx ends first. It is called once.
func (c *Container) Wait(ctx context.Context) (Exit, error) {
	exit, err := c.h.wait(ctx)
	if err != nil {
		return Exit{}, err
	}
	c.stdio.End()
	select {
	case <-c.stdio.Drained():
	case <-c.abandoned:
		exit.Err = errors.Join(exit.Err, errors.New("the output's reader did not take all of it in time"))
	case <-ctx.Done():
		return Exit{}, ctx.Err()
	}
	if exit.Err == nil {
		exit.Err = c.stdio.Err()
	}
	return exit, c.transition(Stopped)
}

// exitOf is what the agent tells of the process's end.
func exitOf(answer *guestapi.WaitResponse) Exit {
	if code := answer.GetExitCode(); code > 255 {
		return Exit{Code: exitLie, Err: fmt.Errorf("the guest's agent tells an exit code that there is not, %d", code)}
	}
	return Exit{Code: int(answer.GetExitCode()), OOMKilled: answer.GetOomKilled()}
}

// Abandon lets Wait return although nobody takes the output. The VMM must have been killed, or the process have ended.
func (c *Container) Abandon() { c.abandon.Do(func() { close(c.abandoned) }) }

// lost says what became of the guest when a call to it failed.
func (s *Sandbox) lost(err error) error {
	if tornOff(err) && s.endsSoon() {
		return s.exitReason()
	}
	return fmt.Errorf("the guest's agent is gone: %w", err)
}

// Signal sends a signal to the container's process. An agent that does not answer is an error within the deadline of a call.
func (c *Container) Signal(ctx context.Context, signal int) error {
	if state := c.State(); state != Running && state != Paused {
		return fmt.Errorf("signal %d: the container is %s: %w", signal, state, ErrTransition)
	}
	return c.h.signal(ctx, signal)
}

// SignalAll sends a signal to all of the container's processes.
func (c *Container) SignalAll(ctx context.Context, signal int) error {
	if state := c.State(); state != Running && state != Paused {
		return fmt.Errorf("signal %d: the container is %s: %w", signal, state, ErrTransition)
	}
	ctx, cancel := context.WithTimeout(ctx, signalTimeout)
	defer cancel()
	_, err := c.s.agent.Signal(ctx, &guestapi.SignalRequest{ContainerId: c.h.container, Signal: uint32(signal), All: true})
	if err != nil {
		return fmt.Errorf("send signal %d to all processes: %w", signal, err)
	}
	return nil
}
