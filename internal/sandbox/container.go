package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/runcvm/runcvm/internal/guestapi"
)

// Container is one container of a sandbox.
type Container struct {
	s  *Sandbox
	id string

	mu    sync.Mutex
	state State

	output sync.WaitGroup // the copies of stdout and stderr
}

// Streams are the ends of a process's standard files on the host. A nil one is /dev/null in the guest.
type Streams struct {
	Stdin          io.ReadCloser
	Stdout, Stderr io.Writer
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
	// maxGuestText bounds a text from the guest in an error, in bytes.
	maxGuestText = 4 << 10
	// exitVMMKilled is the exit code of a container whose VMM is gone: 128 + SIGKILL.
	exitVMMKilled = 137
)

// Create mounts the container's disks in the guest. The disks are those of Boot, named by their file systems' UUIDs.
func (s *Sandbox) Create(ctx context.Context, id, imageUUID, rootfsUUID string) (*Container, error) {
	defer s.cfg.Timeline.Phase("mounts")()
	c := &Container{s: s, id: id, state: Creating}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := s.agent.Create(ctx, &guestapi.CreateRequest{ContainerId: id, ImageUuid: imageUUID, RootfsUuid: rootfsUUID})
	if err != nil {
		return nil, s.evidence(fmt.Errorf("create the container in the guest: %w", err))
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
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	opened := make(chan error, 1)
	go func() { opened <- c.open(ctx, streams) }()
	answer, err := c.s.agent.Start(ctx, &guestapi.StartRequest{
		ContainerId: c.id, Stdin: streams.Stdin != nil, Stdout: streams.Stdout != nil, Stderr: streams.Stderr != nil,
	})
	if err := errors.Join(err, <-opened); err != nil {
		return c.s.evidence(fmt.Errorf("start the container's process: %w", err))
	}
	if text := answer.GetError(); text != "" {
		return &ExecError{Code: execCode(answer.GetErrorCode()), Message: clean(text)}
	}
	return c.transition(Running)
}

func execCode(code uint32) int {
	if code == 126 || code == 127 {
		return int(code)
	}
	return 125
}

// clean bounds a text of the guest and takes out what a terminal would act on.
func clean(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return ' '
		}
		return r
	}, text[:min(len(text), maxGuestText)])
}

// open connects all streams at once and begins to copy.
func (c *Container) open(ctx context.Context, streams Streams) error {
	var group sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	connect := func(s guestapi.Stream, copyStream func(io.ReadWriteCloser)) {
		group.Go(func() {
			conn, err := c.s.dial(ctx, guestapi.PortStream)
			if err == nil {
				if err = guestapi.OpenStream(conn, c.id, s); err != nil {
					conn.Close()
				}
			}
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
				return
			}
			copyStream(conn)
		})
	}
	if streams.Stdin != nil {
		connect(guestapi.Stdin, func(conn io.ReadWriteCloser) {
			go func() {
				defer conn.Close()
				c.logStream(guestapi.Stdin, guestapi.Send(conn, streams.Stdin))
			}()
		})
	}
	for s, w := range map[guestapi.Stream]io.Writer{guestapi.Stdout: streams.Stdout, guestapi.Stderr: streams.Stderr} {
		if w == nil {
			continue
		}
		connect(s, func(conn io.ReadWriteCloser) {
			c.output.Go(func() {
				defer conn.Close()
				c.logStream(s, guestapi.Receive(conn, w))
			})
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

func (c *Container) logStream(s guestapi.Stream, err error) {
	if err != nil {
		c.s.cfg.Log.Debug("stream ended early", "stream", s.String(), "error", err)
	}
}

// Wait returns when the process has ended and its output has been written to the last byte. A VMM or an agent that is
// gone is an exit as well. It returns an error only when ctx ends first.
func (c *Container) Wait(ctx context.Context) (Exit, error) {
	answer, err := c.s.agent.Wait(ctx, &guestapi.WaitRequest{ContainerId: c.id})
	if ctx.Err() != nil {
		return Exit{}, ctx.Err()
	}
	exit := Exit{Code: int(answer.GetExitCode() & 0xff), OOMKilled: answer.GetOomKilled()}
	if err != nil {
		exit = Exit{Code: exitVMMKilled, Err: c.s.evidence(c.lost(err))}
		c.s.vmm.Kill() // a guest without its agent is of no use, and would keep the streams open
	}
	drained := make(chan struct{})
	go func() {
		c.output.Wait()
		close(drained)
	}()
	select {
	case <-drained:
	case <-ctx.Done():
		return Exit{}, ctx.Err()
	}
	return exit, c.transition(Stopped)
}

// lost says what became of the guest when a call to it failed.
func (c *Container) lost(err error) error {
	select {
	case <-c.s.vmm.Done():
	case <-time.After(time.Second): // the connection ends a moment before the process does
	}
	select {
	case <-c.s.vmm.Done():
		if c.s.vmm.Err() != nil {
			return fmt.Errorf("the VMM ended: %w", c.s.vmm.Err())
		}
		return errors.New("the guest ended by itself")
	default:
		return fmt.Errorf("the guest's agent is gone: %w", err)
	}
}

// Signal sends a signal to the container's process. An agent that does not answer is an error within the deadline of a call.
func (c *Container) Signal(ctx context.Context, signal int) error {
	if state := c.State(); state != Running && state != Paused {
		return fmt.Errorf("signal %d: the container is %s: %w", signal, state, ErrTransition)
	}
	ctx, cancel := context.WithTimeout(ctx, signalTimeout)
	defer cancel()
	_, err := c.s.agent.Signal(ctx, &guestapi.SignalRequest{ContainerId: c.id, Signal: uint32(signal)})
	if err != nil {
		return fmt.Errorf("send signal %d: %w", signal, err)
	}
	return nil
}

// signalTimeout bounds the delivery of a signal: who sends SIGKILL wants to see an end soon.
const signalTimeout = 5 * time.Second
