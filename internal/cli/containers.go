package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/container"
	"github.com/runcvm/runcvm/internal/monitor"
)

func (a *app) rmCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "rm [flags] CONTAINER...",
		Short: "Remove containers that have ended",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.forEachFound(args, force, func(ref string) error {
				e, err := a.containers().Find(ref)
				if err != nil {
					return err
				}
				return a.remove(cmd.Context(), e, force)
			})
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "kill those that run")
	cmd.Flags().BoolP("volumes", "v", false, "as without it: a container's data is in its own disk")
	return cmd
}

func (a *app) remove(ctx context.Context, e *container.Entry, force bool) error {
	switch {
	case !e.Alive:
	case e.State == "stopped":
		// Its monitor is about to end.
		wait, cancel := context.WithTimeout(ctx, monitor.EndTimeout)
		defer cancel()
		if err := e.AwaitEnd(wait); err != nil && !force {
			return err
		} else if err != nil {
			return errors.Join(monitor.End(ctx, e), e.Discard())
		}
	case !force:
		return fmt.Errorf("container %s is %s; \"runcvm rm -f %s\" kills and removes it", e.Name, e.State, e.Name)
	default:
		if err := monitor.End(ctx, e); err != nil {
			return err
		}
	}
	return e.Discard()
}

func (a *app) timelineCommand() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "timeline [flags] CONTAINER",
		Short: "Show how long each phase of a container's start took",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			e, err := a.containers().Find(args[0])
			if err != nil {
				return err
			}
			t, err := e.ReadTimeline()
			if err != nil {
				return err
			}
			switch format {
			case "chart":
				return t.Chart(a.stdout, terminalWidth())
			case "json":
				return json.NewEncoder(a.stdout).Encode(t)
			case "svg":
				return t.SVG(a.stdout, fmt.Sprintf("%s (%s, %s)", e.Name, e.Image, filepath.Base(e.VMM.Path)))
			}
			return fmt.Errorf("--format %q is none of chart, svg, json", format)
		},
	}
	cmd.Flags().StringVar(&format, "format", "chart", "chart, svg (a picture), or json")
	return cmd
}

// terminalWidth is standard output's in columns, or 100 where it is no terminal.
func terminalWidth() int {
	ws, err := unix.IoctlGetWinsize(int(os.Stdout.Fd()), unix.TIOCGWINSZ)
	if err != nil || ws.Col == 0 {
		return 100
	}
	return int(ws.Col)
}
