package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"github.com/runcvm/runcvm/internal/container"
	"github.com/runcvm/runcvm/internal/monitor"
	"github.com/runcvm/runcvm/internal/monitor/api"
	"github.com/runcvm/runcvm/internal/sandbox"
)

func (a *app) pauseCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "pause CONTAINER...",
		Short: "Freeze all processes of containers",
		Long: "Freeze all processes of containers, by the freezer of the guest's cgroups. The guest itself goes on: its clock\n" +
			"stays right, and its memory is not given back.",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.forEach(args, func(ref string) error { return a.pause(cmd.Context(), ref) })
		},
	}
}

func (a *app) pause(ctx context.Context, ref string) error {
	e, err := a.settled(ctx, ref)
	if err == nil {
		err = pausable(e)
	}
	if err != nil {
		return err
	}
	return a.notEnded(e, a.ask(ctx, e, func(ctx context.Context, c *monitor.Client) error {
		_, err := c.Control.Pause(ctx, &api.PauseRequest{})
		return err
	}))
}

// pausable says in Docker's words why a container cannot be paused.
func pausable(e *container.Entry) error {
	switch {
	case !e.Alive:
		return fmt.Errorf("container %s is not running", e.ID)
	case e.State == string(sandbox.Paused):
		return fmt.Errorf("container %s is already paused", e.ID)
	case e.State == container.Restarting:
		return fmt.Errorf("container %s is restarting, wait until the container is running", e.ID)
	}
	return nil
}

// notEnded gives the error of a call a better one where the container has ended meanwhile.
func (a *app) notEnded(e *container.Entry, err error) error {
	if errors.Is(err, errMonitorGone) {
		return fmt.Errorf("container %s is not running: %w", e.ID, errdefs.ErrFailedPrecondition)
	}
	return err
}

func (a *app) unpauseCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "unpause CONTAINER...",
		Short: "Let paused containers go on",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.forEach(args, func(ref string) error { return a.unpause(cmd.Context(), ref) })
		},
	}
}

func (a *app) unpause(ctx context.Context, ref string) error {
	e, err := a.settled(ctx, ref)
	if err != nil {
		return err
	}
	if !e.Alive || e.State != string(sandbox.Paused) {
		return fmt.Errorf("container %s is not paused", e.ID)
	}
	return a.notEnded(e, a.ask(ctx, e, func(ctx context.Context, c *monitor.Client) error {
		_, err := c.Control.Resume(ctx, &api.ResumeRequest{})
		return err
	}))
}
