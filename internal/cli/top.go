package cli

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/runcvm/runcvm/internal/container"
	"github.com/runcvm/runcvm/internal/monitor"
	"github.com/runcvm/runcvm/internal/ps"
)

func (a *app) topCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "top CONTAINER [ps OPTIONS]",
		Short: "List a container's processes",
		Long: "List a container's processes in the columns of ps: -ef unless other options are given, aux, or -o with a list\n" +
			"of columns:\n" +
			strings.Join(ps.Names(), " ") + ".\nThe pids are those that the container itself sees, the users' names are its own.",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			columns, err := ps.Columns(args[1:])
			if err != nil {
				return err
			}
			return a.top(cmd.Context(), args[0], columns)
		},
	}
	cmd.Flags().SetInterspersed(false) // what follows the container are ps's
	return cmd
}

func (a *app) top(ctx context.Context, ref string, columns []ps.Column) error {
	e, err := a.settled(ctx, ref)
	if err != nil {
		return err
	}
	if !e.Alive {
		return fmt.Errorf("container %s is not running", e.ID)
	}
	if e.State == container.Restarting {
		return fmt.Errorf("container %s is restarting, wait until the container is running", e.ID)
	}
	var list ps.List
	err = a.notEnded(e, a.ask(ctx, e, func(ctx context.Context, c *monitor.Client) (err error) {
		list, err = ps.Ask(ctx, c)
		return err
	}))
	if err != nil {
		return err
	}
	return list.Write(tabwriter.NewWriter(a.stdout, 20, 1, 3, ' ', 0), a.stderr, columns)
}
