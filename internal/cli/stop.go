package cli

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/signal"
	"github.com/spf13/cobra"

	"github.com/runcvm/runcvm/internal/container"
	"github.com/runcvm/runcvm/internal/monitor"
	"github.com/runcvm/runcvm/internal/monitor/api"
)

// stopFlags say how a container is asked to end.
type stopFlags struct {
	signal  string
	timeout int

	number uint32
	grace  *int64
}

func (f *stopFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&f.signal, "signal", "s", "", "signal to send (default: the container's stop signal)")
	cmd.Flags().IntVarP(&f.timeout, "timeout", "t", 0, "seconds until it is killed; -1: never (default: the container's, 10)")
	// Docker's former name.
	cmd.Flags().IntVar(&f.timeout, "time", 0, "")
	_ = cmd.Flags().MarkHidden("time") // fails only for a flag that there is not
}

// read checks what was given.
func (f *stopFlags) read(cmd *cobra.Command) error {
	var err error
	if f.signal != "" {
		if f.number, err = parseSignal(f.signal); err != nil {
			return err
		}
	}
	if cmd.Flags().Changed("timeout") || cmd.Flags().Changed("time") {
		nanos := int64(f.timeout) * int64(time.Second)
		f.grace = &nanos
	}
	return nil
}

// parseSignal takes a signal's name, with or without SIG, or its number, as Docker does.
func parseSignal(s string) (uint32, error) {
	n, err := signal.ParseSignal(strings.TrimSpace(s))
	if err != nil {
		return 0, fmt.Errorf("%q is no signal: give a name, as in HUP or SIGRTMIN+3, or a number from 1 to 64", s)
	}
	if _, aerr := strconv.Atoi(s); aerr == nil && (n < 1 || n > 64) {
		return 0, fmt.Errorf("%q is no signal: from 1 to 64", s)
	}
	return uint32(n), nil
}

func (a *app) stopCommand() *cobra.Command {
	var f stopFlags
	cmd := &cobra.Command{
		Use:   "stop [flags] CONTAINER...",
		Short: "Ask containers to end, and kill those that do not in time",
		Long: "Send containers their stop signal, and SIGKILL to those that have not ended after their stop timeout. That is\n" +
			"done by each container's monitor, so it holds even if this command is ended. A container that has a restart\n" +
			"policy is not started again; one that has ended already stays as it is.",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.read(cmd); err != nil {
				return err
			}
			return a.forEach(args, func(ref string) error { return a.stop(cmd.Context(), ref, &f) })
		},
	}
	f.register(cmd)
	return cmd
}

func (a *app) stop(ctx context.Context, ref string, f *stopFlags) error {
	e, err := a.settled(ctx, ref)
	if err != nil || !e.Alive {
		return err
	}
	err = a.ask(ctx, e, func(ctx context.Context, c *monitor.Client) error {
		_, err := c.Control.Stop(ctx, &api.StopRequest{Signal: f.number, GraceNanos: f.grace})
		return err
	})
	if err != nil && !errdefs.IsFailedPrecondition(err) && !errors.Is(err, errMonitorGone) {
		return err
	}
	return monitor.AwaitEnd(ctx, e)
}

func (a *app) killCommand() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "kill [flags] CONTAINER...",
		Short: "Send containers a signal, SIGKILL unless another is named",
		Long: "Send the first process of containers a signal. As with docker kill, a container that is killed is not started\n" +
			"again by its restart policy, and is woken where it is paused; so is one that gets another signal, unless it has\n" +
			"a stop signal of its own that is not this one.",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			number, err := parseSignal(name)
			if err != nil {
				return err
			}
			return a.forEach(args, func(ref string) error { return a.sendSignal(cmd.Context(), ref, number) })
		},
	}
	cmd.Flags().StringVarP(&name, "signal", "s", "SIGKILL", "signal, by its name or number")
	return cmd
}

func (a *app) sendSignal(ctx context.Context, ref string, number uint32) error {
	e, err := a.settled(ctx, ref)
	if err != nil {
		return err
	}
	if !e.Alive {
		return fmt.Errorf("cannot kill container: %s: container %s is not running", ref, e.ID)
	}
	err = a.ask(ctx, e, func(ctx context.Context, c *monitor.Client) error {
		_, err := c.Control.SendSignal(ctx, &api.SendSignalRequest{Signal: number})
		return err
	})
	if errors.Is(err, errMonitorGone) {
		return fmt.Errorf("cannot kill container: %s: container %s is not running", ref, e.ID)
	}
	return err
}

func (a *app) waitCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "wait CONTAINER...",
		Short: "Wait until containers have ended, and print their exit codes",
		Long: "Wait until containers have ended and are not started again by their restart policy, and print the exit code of\n" +
			"each. Of one that has ended before, the code is printed at once.",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var errs []error
			for _, ref := range args {
				code, err := a.wait(cmd.Context(), ref)
				if err == nil {
					fmt.Fprintln(a.stdout, code)
				}
				errs = append(errs, err)
			}
			return errors.Join(errs...)
		},
	}
}

// killedCode is the exit code of a container whose monitor was killed.
const killedCode = 137

func (a *app) wait(ctx context.Context, ref string) (int, error) {
	e, err := a.settled(ctx, ref)
	if err != nil || !e.Alive {
		return exitCodeOf(e), err
	}
	code := 0
	err = a.ask(ctx, e, func(ctx context.Context, c *monitor.Client) error {
		r, err := c.Control.AwaitEnd(ctx, &api.AwaitEndRequest{})
		code = int(r.GetExitCode())
		return err
	})
	if !errors.Is(err, errMonitorGone) {
		return code, err
	}
	// It ended before it was asked, or was killed.
	now, err := a.containers().Find(e.ID)
	if errdefs.IsNotFound(err) {
		return killedCode, nil // of one that was to be removed nothing else is known
	}
	return exitCodeOf(now), err
}

func exitCodeOf(e *container.Entry) int {
	if e == nil {
		return 0
	}
	return e.ExitCode
}
