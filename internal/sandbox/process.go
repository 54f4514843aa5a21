package sandbox

import (
	"context"
	"fmt"
	"math"

	"github.com/runcvm/runcvm/internal/guestapi"
)

// handle names a process to the guest's agent: a container's own, where exec is empty, or a further one.
type handle struct {
	s               *Sandbox
	container, exec string
}

// signal sends a signal to the process, within the deadline of a signal.
func (h handle) signal(ctx context.Context, signal int) error {
	ctx, cancel := context.WithTimeout(ctx, signalTimeout)
	defer cancel()
	_, err := h.s.agent.Signal(ctx, &guestapi.SignalRequest{ContainerId: h.container, ExecId: h.exec, Signal: uint32(signal)})
	if err != nil {
		return fmt.Errorf("send signal %d: %w", signal, err)
	}
	return nil
}

// resize sets the size of the process's terminal.
func (h handle) resize(ctx context.Context, size Size) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := h.s.agent.Resize(ctx, &guestapi.ResizeRequest{ContainerId: h.container, ExecId: h.exec, Size: size.message()})
	if err != nil {
		return fmt.Errorf("set the terminal's size: %w", err)
	}
	return nil
}

// wait returns how the process ended; an error is ctx's. A VMM or an agent that is gone is an exit, and the end of the VMM: a guest
// without its agent is of no use, and would keep the streams open.
func (h handle) wait(ctx context.Context) (Exit, error) {
	answer, err := h.s.agent.Wait(ctx, &guestapi.WaitRequest{ContainerId: h.container, ExecId: h.exec})
	if ctx.Err() != nil {
		return Exit{}, ctx.Err()
	}
	if err != nil {
		exit := Exit{Code: exitVMMKilled, Err: h.s.evidence(h.s.lost(err))}
		h.s.vmm.Kill()
		return exit, nil
	}
	return exitOf(answer), nil
}

// Size is a terminal's, in characters. The zero value is the kernel's own choice.
type Size struct {
	Rows    uint16 `json:"rows,omitempty"`
	Columns uint16 `json:"columns,omitempty"`
}

func (s Size) message() *guestapi.ConsoleSize {
	if s == (Size{}) {
		return nil
	}
	return &guestapi.ConsoleSize{Rows: uint32(s.Rows), Columns: uint32(s.Columns)}
}

// NewSize is the size of these numbers, or an error where no terminal has it.
func NewSize(rows, columns uint32) (Size, error) {
	if rows > math.MaxUint16 || columns > math.MaxUint16 {
		return Size{}, fmt.Errorf("%d by %d is no terminal's size", rows, columns)
	}
	return Size{uint16(rows), uint16(columns)}, nil
}

// ExecConfig is a further process of a container.
type ExecConfig struct {
	// ID is unlike those of the container's other processes: [A-Za-z0-9_.-]{1,128}.
	ID string
	// Process is the OCI runtime specification's, as JSON.
	Process []byte
	// User is resolved in the guest, with further groups by name or number; empty: the container's own, with its groups.
	User   string
	Groups []string
	// OwnUser says that the process's user is whole as it is.
	OwnUser bool
	// Which streams are opened, by OpenStdio, at once or within 10 s of the start.
	Stdin, Stdout, Stderr bool
}

// Process is a further process of a container.
type Process struct{ h handle }

// Exec runs a further process in the container, which must be running. An *ExecError says that it could not be executed.
func (c *Container) Exec(ctx context.Context, cfg ExecConfig) (*Process, error) {
	if state := c.State(); state != Running {
		return nil, fmt.Errorf("exec: the container is %s: %w", state, ErrTransition)
	}
	ctx, cancel := c.s.within(ctx, "run the process")
	defer cancel()
	answer, err := c.s.agent.Exec(ctx, &guestapi.ExecRequest{
		ContainerId: c.h.container, ExecId: cfg.ID, Process: cfg.Process, User: cfg.User, Groups: cfg.Groups, OwnUser: cfg.OwnUser,
		Stdin: cfg.Stdin, Stdout: cfg.Stdout, Stderr: cfg.Stderr,
	})
	if err != nil {
		return nil, fmt.Errorf("run a process in the container: %w", c.s.bootError(ctx, err))
	}
	if text := answer.GetError(); text != "" {
		return nil, &ExecError{Code: execCode(answer.GetErrorCode()), Message: clean(text, maxGuestText)}
	}
	return &Process{handle{c.s, c.h.container, cfg.ID}}, nil
}

// Wait returns when the process has ended. It returns an error only when ctx ends first. It is called once: the guest forgets the
// process with the answer.
func (p *Process) Wait(ctx context.Context) (Exit, error) { return p.h.wait(ctx) }

// Signal sends a signal to the process. An agent that does not answer is an error within the deadline of a call.
func (p *Process) Signal(ctx context.Context, signal int) error { return p.h.signal(ctx, signal) }

// Resize sets the size of the process's terminal.
func (p *Process) Resize(ctx context.Context, size Size) error { return p.h.resize(ctx, size) }

// Resize sets the size of the terminal of the container's process.
func (c *Container) Resize(ctx context.Context, size Size) error {
	if state := c.State(); state != Running && state != Paused {
		return fmt.Errorf("resize: the container is %s: %w", state, ErrTransition)
	}
	return c.h.resize(ctx, size)
}
