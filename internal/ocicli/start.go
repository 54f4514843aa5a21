package ocicli

import (
	"context"
	"errors"
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/container"
	"github.com/runcvm/runcvm/internal/monitor"
	"github.com/runcvm/runcvm/internal/monitor/api"
	"github.com/runcvm/runcvm/internal/sandbox"
)

func (a *app) startCommand() *cobra.Command {
	return &cobra.Command{
		Use: "start ID", Short: "Run the process of a container that is created", Args: exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.start(cmd.Context(), args[0]) },
	}
}

func (a *app) start(ctx context.Context, id string) error {
	e, err := a.find(id)
	if err != nil {
		return err
	}
	switch status(e) {
	case sandbox.Created:
	case sandbox.Stopped:
		return errors.New("cannot start a container that has stopped")
	case sandbox.Running:
		return errors.New("cannot start an already running container")
	default:
		return fmt.Errorf("cannot start a container in the %s state", status(e))
	}
	spec, err := readSpec(e)
	if err != nil {
		return err
	}
	pidfd, err := monitor.Pidfd(e)
	if err != nil {
		return err
	}
	if pidfd >= 0 {
		defer unix.Close(pidfd)
	}
	var answer *api.StartBundleResponse
	err = a.ask(ctx, e, func(ctx context.Context, c *monitor.Client) (err error) {
		answer, err = c.Bundle.StartBundle(ctx, &api.StartBundleRequest{})
		return err
	})
	if err != nil {
		return err
	}
	if text := answer.GetError(); text != "" {
		// An engine deletes the container at once, which it can only when it has seen the end of the container's process.
		err := processError("the container", text, int(answer.GetCode()))
		if pidfd >= 0 {
			err = errors.Join(err, monitor.AwaitPidfd(ctx, pidfd))
		}
		return err
	}
	if spec.Hooks == nil || len(spec.Hooks.Poststart) == 0 {
		return nil
	}
	if err := runHooks(ctx, "poststart", spec.Hooks.Poststart, hookState(e.Bundle, specs.StateRunning, e.Pid)); err != nil {
		return errors.Join(err, monitor.End(ctx, e))
	}
	return nil
}

// hookState is what a hook gets to know.
func hookState(b *container.Bundle, status specs.ContainerState, pid int) *specs.State {
	return &specs.State{Version: b.Version, ID: b.ID, Status: status, Pid: pid, Bundle: b.Dir, Annotations: b.Annotations}
}
