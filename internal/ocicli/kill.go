package ocicli

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/moby/sys/signal"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/runcvm/runcvm/internal/container"
	"github.com/runcvm/runcvm/internal/hostcgroup"
	"github.com/runcvm/runcvm/internal/monitor"
	"github.com/runcvm/runcvm/internal/monitor/api"
	"github.com/runcvm/runcvm/internal/sandbox"
)

func (a *app) killCommand() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use: "kill ID [SIGNAL]", Short: "Send a signal (SIGTERM) to a container's process", Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := a.find(args[0])
			if err != nil {
				return err
			}
			signal := unix.SIGTERM
			if len(args) == 2 {
				if signal, err = parseSignal(args[1]); err != nil {
					return err
				}
			}
			err = a.signal(cmd.Context(), e, signal, all)
			if all && errors.Is(err, errNotRunning) {
				return nil
			}
			return err
		},
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "send it to all of the container's processes")
	return cmd
}

func (a *app) signal(ctx context.Context, e *container.Entry, signal unix.Signal, all bool) error {
	if status(e) == sandbox.Stopped {
		return errNotRunning
	}
	return a.ask(ctx, e, func(ctx context.Context, c *monitor.Client) error {
		_, err := c.Bundle.KillBundle(ctx, &api.KillBundleRequest{Signal: uint32(signal), All: all})
		return killError(err)
	})
}

// killError is errNotRunning where the process has ended and its guest has not yet. Engines know that by these words only.
func killError(err error) error {
	if grpcstatus.Code(err) == codes.FailedPrecondition {
		return errNotRunning
	}
	return err
}

// parseSignal takes a signal's number, or its name with or without SIG.
func parseSignal(s string) (unix.Signal, error) {
	const last = 64
	if n, err := strconv.Atoi(s); err == nil {
		if n < 0 || n > last {
			return 0, fmt.Errorf("unknown signal %q", s)
		}
		return unix.Signal(n), nil
	}
	n, err := signal.ParseSignal(s)
	if err != nil {
		return 0, fmt.Errorf("unknown signal %q", s)
	}
	return n, nil
}

func (a *app) deleteCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "delete ID", Short: "Remove a container that has ended", Args: exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			err := a.delete(cmd.Context(), args[0], force)
			if force && errors.Is(err, errNotExist) {
				return nil
			}
			return err
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "kill it if it runs")
	return cmd
}

// endPatience is how long a monitor that has written its container's end may take to end itself.
const endPatience = 10 * time.Second

func (a *app) delete(ctx context.Context, id string, force bool) error {
	e, err := a.find(id)
	if err != nil {
		return err
	}
	switch s := status(e); {
	case s == sandbox.Stopped:
		wait, cancel := context.WithTimeout(ctx, endPatience)
		defer cancel()
		if err := e.AwaitEnd(wait); err != nil {
			if err := monitor.End(ctx, e); err != nil {
				return err
			}
		}
	case force, s == sandbox.Created:
		if err := monitor.End(ctx, e); err != nil {
			return err
		}
	default:
		return fmt.Errorf("cannot delete container %s that is not stopped: %s", id, s)
	}
	if e.Bundle.Cgroup != nil {
		c, err := hostcgroup.Load(*e.Bundle.Cgroup)
		if err == nil {
			err = deleteCgroup(ctx, c)
		}
		if err != nil {
			return err
		}
	}
	spec, err := readSpec(e)
	if err := e.Discard(); err != nil {
		return err
	}
	if err != nil {
		a.log.warn(err.Error())
		return nil
	}
	a.runPoststop(ctx, spec.Hooks, hookState(e.Bundle, specs.StateStopped, 0))
	return nil
}
