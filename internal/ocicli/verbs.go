package ocicli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/runcvm/runcvm/internal/container"
	"github.com/runcvm/runcvm/internal/monitor"
	"github.com/runcvm/runcvm/internal/monitor/api"
	"github.com/runcvm/runcvm/internal/ps"
	"github.com/runcvm/runcvm/internal/sandbox"
)

func (a *app) pauseCommand() *cobra.Command {
	return &cobra.Command{
		Use: "pause ID", Short: "Let all processes of a container stand still", Args: exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := a.find(args[0])
			if err != nil {
				return err
			}
			if status(e) != sandbox.Running {
				return errNotRunning
			}
			return a.ask(cmd.Context(), e, func(ctx context.Context, c *monitor.Client) error {
				_, err := c.Control.Pause(ctx, &api.PauseRequest{})
				return err
			})
		},
	}
}

func (a *app) resumeCommand() *cobra.Command {
	return &cobra.Command{
		Use: "resume ID", Short: "Let the processes of a paused container go on", Args: exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := a.find(args[0])
			if err != nil {
				return err
			}
			if status(e) != sandbox.Paused {
				return errNotPaused
			}
			return a.ask(cmd.Context(), e, func(ctx context.Context, c *monitor.Client) error {
				_, err := c.Control.Resume(ctx, &api.ResumeRequest{})
				return err
			})
		},
	}
}

func (a *app) psCommand() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use: "ps [flags] ID [ps OPTIONS]", Short: "List a container's processes",
		Long: "List the processes of a container: as a table those in its guest, by their ids there; as JSON, as runc does, the ids of\n" +
			"those that run it on the host, its monitor first.",
		Args: minArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := a.find(args[0])
			if err != nil {
				return err
			}
			switch {
			case format != "json" && format != "table":
				return errors.New("invalid format option")
			case format == "json":
				return json.NewEncoder(a.stdout).Encode(hostPids(e))
			}
			columns, err := ps.Columns(args[1:])
			if err != nil {
				return err
			}
			return a.ps(cmd.Context(), e, columns)
		},
	}
	cmd.Flags().SetInterspersed(false)
	cmd.Flags().StringVarP(&format, "format", "f", "table", "table or json")
	return cmd
}

// hostPids are the processes on the host that run a container.
func hostPids(e *container.Entry) []int {
	var pids []int // none is null, as runc prints it
	if status(e) != sandbox.Stopped {
		pids = append(pids, e.Pid)
	}
	return pids
}

func (a *app) ps(ctx context.Context, e *container.Entry, columns []ps.Column) error {
	var list ps.List
	if s := status(e); s != sandbox.Stopped && s != sandbox.Created { // there is no guest yet, or no more
		err := a.ask(ctx, e, func(ctx context.Context, c *monitor.Client) (err error) {
			list, err = ps.Ask(ctx, c)
			return err
		})
		if err != nil {
			return err
		}
	}
	return list.Write(tabwriter.NewWriter(a.stdout, 8, 1, 2, ' ', 0), a.stderr, columns)
}

func (a *app) specCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use: "spec", Short: "Write a config.json to begin with", Args: exactArgs(0),
		RunE: func(*cobra.Command, []string) error {
			if dir != "" {
				if err := os.Chdir(dir); err != nil {
					return err
				}
			}
			const name = "config.json"
			text, err := json.MarshalIndent(exampleSpec(), "", "\t")
			if err != nil {
				return err
			}
			f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
			if errors.Is(err, os.ErrExist) {
				return fmt.Errorf("File %s exists. Remove it first", name) //nolint:staticcheck // runc's text
			}
			if err != nil {
				return err
			}
			_, err = f.Write(append(text, '\n'))
			return errors.Join(err, f.Close())
		},
	}
	cmd.Flags().StringVarP(&dir, "bundle", "b", "", "directory to write it to (default: the working directory)")
	return cmd
}
