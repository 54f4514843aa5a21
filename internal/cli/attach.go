package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/runcvm/runcvm/internal/container"
	"github.com/runcvm/runcvm/internal/monitor"
	"github.com/runcvm/runcvm/internal/monitor/api"
	"github.com/runcvm/runcvm/internal/sandbox"
	"github.com/runcvm/runcvm/internal/terminal"
)

// attachFlags are what attach was asked for.
type attachFlags struct {
	noStdin    bool
	sigProxy   bool
	detachKeys string
}

func (a *app) attachCommand() *cobra.Command {
	var f attachFlags
	cmd := &cobra.Command{
		Use:   "attach [flags] CONTAINER",
		Short: "Attach this standard input, output and error to a running container",
		Long: "Attach this standard input, output and error to a running container: to those of its own process. What it has written\n" +
			"before is in \"runcvm logs\". Any number of people can be attached at one time. The exit code is the container's.\n\n" +
			"Input reaches a container that was run with -i; its end is not the container's end of input. The detach keys, at a\n" +
			"container with a terminal (run -t), leave it running, with exit code 1 here. Without a terminal, signals are handed to\n" +
			"the container's process. Who takes no output for 10 seconds is let go, so that the container goes on.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := a.containers().Find(args[0])
			if err != nil {
				return err
			}
			return a.attach(cmd.Context(), e, f)
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&f.noStdin, "no-stdin", false, "do not give it this standard input")
	flags.BoolVar(&f.sigProxy, "sig-proxy", true, "hand signals to the container's process where it has no terminal")
	flags.StringVar(&f.detachKeys, "detach-keys", terminal.DefaultDetachKeys,
		"keys that detach from a container with a terminal; empty: none")
	return cmd
}

// attach stays attached until the container has ended, whose exit code becomes this command's, or until the user has detached.
func (a *app) attach(ctx context.Context, e *container.Entry, f attachFlags) error {
	keys, err := terminal.ParseDetachKeys(f.detachKeys)
	if err != nil {
		return err
	}
	if !e.Alive || e.State == string(sandbox.Stopped) {
		return errors.New("you cannot attach to a stopped container, start it first")
	}
	signals := monitor.Signals()
	signal.Ignore(syscall.SIGPIPE)
	client, err := monitor.Attach(ctx, e)
	if err != nil {
		return err
	}
	s := &session{
		app: a, client: client, find: func() (*container.Entry, error) { return e, nil }, stdin: !f.noStdin, keys: keys, signals: signals,
		redraw: true,
	}
	if f.sigProxy && !client.TTY {
		m, err := monitor.Dial(ctx, e)
		if err != nil {
			return errors.Join(err, client.Close())
		}
		defer func() { _ = m.Close() }() // all that was asked for is answered
		s.proxy = func(ctx context.Context, sig os.Signal) {
			if n, ok := sig.(syscall.Signal); ok {
				_, _ = m.Signal(ctx, &api.SignalRequest{Signal: uint32(n)}) // fails only when the container has ended
			}
		}
	}
	exit, err := s.run(ctx)
	if err := sessionError(e.Name, err); err != nil {
		return err
	}
	a.code = exit.Code
	if exit.Text != "" {
		fmt.Fprintf(a.stderr, "runcvm: container %s: %s\n", e.Name, exit.Text)
	}
	return nil
}
