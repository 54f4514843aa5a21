package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"github.com/runcvm/runcvm/internal/cmdline"
	"github.com/runcvm/runcvm/internal/container"
	"github.com/runcvm/runcvm/internal/monitor"
	"github.com/runcvm/runcvm/internal/monitor/api"
	"github.com/runcvm/runcvm/internal/sandbox"
	"github.com/runcvm/runcvm/internal/terminal"
)

func (a *app) startCommand() *cobra.Command {
	var attach, interactive bool
	var keys string
	cmd := &cobra.Command{
		Use:   "start [flags] CONTAINER...",
		Short: "Start containers again that have ended, or those that were only made",
		Long: "Start containers with the options they were made with, in a new microVM. What they have written to their disk is\n" +
			"there; the disk is checked first, as after a crash. With -a or -i, output, errors and exit code are the\n" +
			"command's, as in run.",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !attach && !interactive {
				return a.forEach(args, func(ref string) error { return a.start(cmd.Context(), ref) })
			}
			if len(args) > 1 {
				return errors.New("you cannot start and attach multiple containers at once")
			}
			return a.startAttached(cmd.Context(), args[0], interactive, keys)
		},
	}
	cmd.Flags().BoolVarP(&attach, "attach", "a", false, "wait for the end, with output here and signals handed on")
	cmd.Flags().BoolVarP(&interactive, "interactive", "i", false, "give the command this standard input, if the container was made with -i")
	cmd.Flags().StringVar(&keys, "detach-keys", terminal.DefaultDetachKeys,
		"keys that leave a container with a terminal running; empty: none")
	return cmd
}

// startable finds a container that is to be started. It is nil where the container runs already.
func (a *app) startable(ctx context.Context, ref string) (*container.Entry, error) {
	e, err := a.settled(ctx, ref)
	switch {
	case err != nil:
		return nil, err
	case e.Bundle != nil:
		return nil, monitor.RefuseStart(e.Name, e.Bundle)
	case !e.Alive:
		return e, nil
	case e.State == string(sandbox.Paused):
		return nil, fmt.Errorf("container %s: cannot start a paused container, try unpause instead", e.Name)
	}
	return nil, nil
}

// again is the request for another start of a container.
func (a *app) again(e *container.Entry) (monitor.Request, error) {
	var req monitor.Request
	if err := e.ReadRequest(&req); err != nil {
		return req, err
	}
	req.Name = e.Name
	if err := a.locateKernel(); err != nil {
		return req, err
	}
	return req.Restarted(a.cfg.Values(), a.zero), nil
}

// isBusy says that a start failed since another one was faster.
func isBusy(err error) bool {
	start := new(monitor.StartError)
	return errors.As(err, &start) && start.Busy
}

// start runs a container in the background. Of several starts at once one does it, and all succeed.
func (a *app) start(ctx context.Context, ref string) error {
	for {
		e, err := a.startable(ctx, ref)
		if err != nil || e == nil {
			return err
		}
		req, err := a.again(e)
		if err != nil {
			return err
		}
		req.Detach = true
		_, err = monitor.Spawn(ctx, req)
		if isBusy(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("start container %s: %w", e.Name, err)
		}
		return nil
	}
}

// startAttached runs a container as run does, or attaches to one that runs already.
func (a *app) startAttached(ctx context.Context, ref string, interactive bool, detachKeys string) error {
	e, err := a.startable(ctx, ref)
	if err != nil {
		return err
	}
	if e == nil {
		if e, err = a.containers().Find(ref); err != nil {
			return err
		}
		return a.attach(ctx, e, attachFlags{noStdin: !interactive, sigProxy: true, detachKeys: detachKeys})
	}
	req, err := a.again(e)
	if err != nil {
		return err
	}
	req.Detach, req.Stdin = false, req.Stdin && interactive
	if req.Options.Terminal {
		err = a.runAttached(ctx, req, detachKeys)
	} else {
		err = a.run(ctx, req)
	}
	if isBusy(err) {
		return a.startAttached(ctx, ref, interactive, detachKeys)
	}
	if exit := new(cmdline.ExitError); errors.As(err, &exit) {
		return fmt.Errorf("start container %s: %w", e.Name, exit.Err)
	}
	return err
}

func (a *app) restartCommand() *cobra.Command {
	var f stopFlags
	cmd := &cobra.Command{
		Use:   "restart [flags] CONTAINER...",
		Short: "Stop containers and start them again",
		Long: "Stop containers as stop does, and start them again in a new microVM; one that has ended is only started. The\n" +
			"command of a run that waits for its container ends with the container's exit code, and the container goes on\n" +
			"without it.",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.read(cmd); err != nil {
				return err
			}
			return a.forEach(args, func(ref string) error { return a.restart(cmd.Context(), ref, &f) })
		},
	}
	f.register(cmd)
	return cmd
}

func (a *app) restart(ctx context.Context, ref string, f *stopFlags) error {
	e, err := a.settled(ctx, ref)
	if err != nil {
		return err
	}
	if e.Bundle != nil {
		return monitor.RefuseStart(e.Name, e.Bundle)
	}
	if e.Alive {
		err = a.ask(ctx, e, func(ctx context.Context, c *monitor.Client) error {
			_, err := c.Control.Restart(ctx, &api.RestartRequest{Signal: f.number, GraceNanos: f.grace})
			return err
		})
		if !errdefs.IsFailedPrecondition(err) && !errors.Is(err, errMonitorGone) {
			return err
		}
		// It ended before it was asked.
	}
	return a.start(ctx, e.ID)
}

func (a *app) renameCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "rename CONTAINER NAME",
		Short: "Give a container another name",
		Args:  cobra.ExactArgs(2),
		RunE:  func(cmd *cobra.Command, args []string) error { return a.rename(cmd.Context(), args[0], args[1]) },
	}
}

func (a *app) rename(ctx context.Context, ref, name string) error {
	if !container.ValidName(name) {
		return fmt.Errorf("name %q: only letters, digits, '_', '.' and '-', beginning with a letter or digit", name)
	}
	e, err := a.settled(ctx, ref)
	if err != nil {
		return err
	}
	if e.Name == name {
		return fmt.Errorf("container %s has the name %q already", container.Short(e.ID), name)
	}
	if e.Alive {
		err := a.ask(ctx, e, func(ctx context.Context, c *monitor.Client) error {
			_, err := c.Control.Rename(ctx, &api.RenameRequest{Name: name})
			return err
		})
		if !errors.Is(err, errMonitorGone) {
			return err
		}
	}
	h, r, err := a.containers().Own(e.ID)
	if err != nil {
		return err
	}
	err = h.Rename(&r, name)
	return errors.Join(err, h.Close(r.Name, false))
}
