package ocicli

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/creack/pty"
	"github.com/spf13/cobra"

	"github.com/runcvm/runcvm/internal/monitor"
	"github.com/runcvm/runcvm/internal/terminal"
)

func (a *app) runCommand() *cobra.Command {
	f := new(createFlags)
	var keep bool
	cmd := &cobra.Command{
		Use: "run [flags] ID", Short: "Make a container of a bundle, run it, and remove it after its end", Args: exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.run(cmd.Context(), args[0], f, keep) },
	}
	f.add(cmd.Flags())
	cmd.Flags().BoolVarP(&f.detach, "detach", "d", false, "return when it runs")
	cmd.Flags().BoolVar(&keep, "keep", false, "do not remove it after its end")
	cmd.Flags().Bool("no-subreaper", false, "taken: no process of the container is left to this one")
	return cmd
}

func (a *app) run(ctx context.Context, id string, f *createFlags, keep bool) error {
	var signals chan os.Signal
	if !f.detach {
		signals = monitor.Signals()
		signal.Ignore(syscall.SIGPIPE)
	}
	c, err := a.create(ctx, id, f)
	if err != nil {
		return err
	}
	remove := func(err error) error {
		if keep {
			return err
		}
		return errors.Join(err, a.delete(ctx, id, true))
	}
	if c.console != nil && !f.detach {
		restore, err := a.joinConsole(c.console)
		if err != nil {
			return remove(err)
		}
		defer restore()
	}
	ended := make(chan error, 1)
	if !f.detach {
		go func() {
			var err error
			a.code, _, err = c.monitor.Wait()
			ended <- err
		}()
		stop := make(chan struct{})
		defer close(stop)
		go forwardSignals(c, signals, stop)
	}
	if err := a.start(ctx, id); err != nil {
		return remove(err)
	}
	if f.detach {
		return nil
	}
	return remove(<-ended)
}

// forwardSignals hands this process's signals to the container's monitor.
func forwardSignals(c *created, signals <-chan os.Signal, stop <-chan struct{}) {
	for {
		select {
		case s := <-signals:
			if s == syscall.SIGWINCH && c.console != nil {
				_ = pty.InheritSize(os.Stdin, c.console) // it keeps the size that it has
				continue
			}
			_ = c.monitor.Signal(s) // fails only where it has ended
		case <-stop:
			return
		}
	}
}

// joinConsole makes this process's terminal the container's.
func (a *app) joinConsole(console *os.File) (restore func(), err error) {
	restore = func() {}
	if terminal.Is(os.Stdin) {
		if restore, err = terminal.Raw(os.Stdin); err != nil {
			return nil, err
		}
		_ = pty.InheritSize(os.Stdin, console) // it keeps the size that it has
	}
	go func() { _, _ = io.Copy(console, os.Stdin) }() // ends with the input, or with this process
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		_, _ = io.Copy(os.Stdout, console) // ends by EIO when the monitor has
	}()
	raw := restore
	return func() {
		<-drained
		raw()
	}, nil
}
