package sandbox

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/runcvm/runcvm/internal/guestapi"
)

// pauseTimeout bounds the freezing of a container: its processes may first have to come back from the disk.
const pauseTimeout = 30 * time.Second

// Pause freezes the container's processes, and returns when they stand still.
func (c *Container) Pause(ctx context.Context) error {
	return c.freeze(ctx, "pause", Running, Paused, func(ctx context.Context) error {
		_, err := c.s.control.Pause(ctx, &guestapi.PauseRequest{ContainerId: c.h.container})
		return err
	})
}

// Resume lets a paused container go on.
func (c *Container) Resume(ctx context.Context) error {
	return c.freeze(ctx, "resume", Paused, Running, func(ctx context.Context) error {
		_, err := c.s.control.Resume(ctx, &guestapi.ResumeRequest{ContainerId: c.h.container})
		return err
	})
}

// freeze takes the container from one state to the other by a call of the agent, one at a time.
func (c *Container) freeze(ctx context.Context, verb string, from, to State, call func(context.Context) error) error {
	c.freezing.Lock()
	defer c.freezing.Unlock()
	if state := c.State(); state != from {
		return fmt.Errorf("%s: the container is %s: %w", verb, state, ErrTransition)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, pauseTimeout,
		fmt.Errorf("the guest's agent has not answered within %s", pauseTimeout))
	defer cancel()
	if err := call(ctx); err != nil {
		return fmt.Errorf("%s the container: %w", verb, cause(ctx, err))
	}
	err := c.transition(to)
	if errors.Is(err, ErrTransition) && c.State() == Stopped && to == Running {
		return nil // what was woken has ended at once
	}
	return err
}

// Update changes limits in the guest; the request names no container.
func (c *Container) Update(ctx context.Context, r *guestapi.UpdateRequest) error {
	if state := c.State(); state != Running && state != Paused {
		return fmt.Errorf("change its limits: the container is %s: %w", state, ErrTransition)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	r.ContainerId = c.h.container
	if _, err := c.s.control.Update(ctx, r); err != nil {
		return fmt.Errorf("change the container's limits in the guest: %w", err)
	}
	return nil
}
