package ocicli

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/runcvm/runcvm/internal/container"
	"github.com/runcvm/runcvm/internal/sandbox"
)

// containerState is what state and list print, in runc's shape.
type containerState struct {
	Version     string            `json:"ociVersion"`
	ID          string            `json:"id"`
	Pid         int               `json:"pid"`
	Status      sandbox.State     `json:"status"`
	Bundle      string            `json:"bundle"`
	Rootfs      string            `json:"rootfs"`
	Created     time.Time         `json:"created"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Owner       string            `json:"owner"`
}

func stateOf(e *container.Entry) containerState {
	s := containerState{
		Version: e.Bundle.Version, ID: e.Bundle.ID, Pid: e.Pid, Status: status(e), Bundle: e.Bundle.Dir, Rootfs: e.Bundle.Rootfs,
		Created: e.Created.UTC(), Annotations: e.Bundle.Annotations,
	}
	if s.Status == sandbox.Stopped {
		s.Pid = 0
	}
	return s
}

// status is one of the runtime specification's, or paused.
func status(e *container.Entry) sandbox.State {
	if s := sandbox.State(e.State); e.Alive || s == sandbox.Stopped {
		return s
	}
	return sandbox.Stopped
}

func (a *app) stateCommand() *cobra.Command {
	return &cobra.Command{
		Use: "state ID", Short: "Print a container's state", Args: exactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			e, err := a.find(args[0])
			if err != nil {
				return err
			}
			text, err := json.MarshalIndent(stateOf(e), "", "  ")
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(a.stdout, "%s\n", text)
			return err
		},
	}
}

func (a *app) listCommand() *cobra.Command {
	var format string
	var quiet bool
	cmd := &cobra.Command{
		Use: "list", Short: "List the containers of the root", Args: exactArgs(0),
		RunE: func(*cobra.Command, []string) error {
			states, err := a.list()
			if err != nil {
				return err
			}
			switch {
			case quiet:
				for _, s := range states {
					fmt.Fprintln(a.stdout, s.ID)
				}
				return nil
			case format == "json":
				return json.NewEncoder(a.stdout).Encode(states)
			case format != "table":
				return errors.New("invalid format option")
			}
			w := tabwriter.NewWriter(a.stdout, 12, 1, 3, ' ', 0)
			fmt.Fprint(w, "ID\tPID\tSTATUS\tBUNDLE\tCREATED\tOWNER\n")
			for _, s := range states {
				fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\n", s.ID, s.Pid, s.Status, s.Bundle, s.Created.Format(time.RFC3339Nano), s.Owner)
			}
			return w.Flush()
		},
	}
	cmd.Flags().StringVarP(&format, "format", "f", "table", "table or json")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print the ids alone")
	return cmd
}

func (a *app) list() ([]containerState, error) {
	all, err := a.containers().List()
	if err != nil {
		return nil, err
	}
	var states []containerState
	for _, e := range all {
		if e.Bundle != nil && e.Bundle.Root == a.root {
			s := stateOf(e)
			s.Owner = "root"
			states = append(states, s)
		}
	}
	slices.SortFunc(states, func(x, y containerState) int { return x.Created.Compare(y.Created) })
	return states, nil
}
