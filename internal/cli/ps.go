package cli

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/runcvm/runcvm/internal/container"
)

// containerRow is a container as ps shows it: Docker's fields, and VMM.
type containerRow struct {
	ID         string
	Image      string
	Command    string
	CreatedAt  string
	RunningFor string
	// State is Docker's word, Status a text of it.
	State, Status string
	// Ports are the published ones.
	Ports string
	Names string
	VMM   string
	// Record is what is kept of the container. It is for templates, {{json .Record}}.
	Record container.Record `json:"-"`
}

func (a *app) psCommand() *cobra.Command {
	l := listing{
		columns:  "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.VMM}}\t{{.Names}}",
		headings: map[string]string{"ID": "CONTAINER ID", "RunningFor": "CREATED", "CreatedAt": "CREATED AT"},
		name:     "{{.ID}}",
	}
	var all bool
	var last int
	cmd := &cobra.Command{
		Use:   "ps",
		Short: "List containers",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			match, err := containerFilters.compile(l.filters)
			if err != nil {
				return err
			}
			entries, err := a.containers().List()
			all := all || cmd.Flags().Changed("last") || hasFilter(l.filters, "status") || hasFilter(l.filters, "exited")
			var rows []containerRow
			for _, e := range entries {
				if (all || e.Alive) && match(e) && (last < 0 || len(rows) < last) {
					rows = append(rows, rowOf(e, l.noTrunc))
				}
			}
			return errors.Join(printRows(a.stdout, &l, rows), err)
		},
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "also those that have ended")
	cmd.Flags().IntVarP(&last, "last", "n", -1, "only the last N that were made, in whatever state")
	l.addFormat(cmd)
	l.addQuiet(cmd, "ids")
	l.addNoTrunc(cmd)
	l.addFilter(cmd, "id (its beginning), name (regular expression), status, exited (its code), ancestor (image), label")
	return cmd
}

func rowOf(e *container.Entry, whole bool) containerRow {
	row := containerRow{
		ID: e.PublicID(), Image: e.Image, Command: strconv.Quote(strings.Join(e.Command, " ")),
		CreatedAt:  e.Created.Format(timeLayout),
		RunningFor: units.HumanDuration(time.Since(e.Created)) + " ago", State: dockerState(e), Status: containerStatus(e),
		Ports: portsOf(e.Ports), Names: e.Name, VMM: filepath.Base(e.VMM.Path), Record: e.Record,
	}
	if e.VMM.Path == "" {
		row.VMM = ""
	}
	if !whole {
		row.ID, row.Command = container.Short(row.ID), ellipsis(row.Command, maxCommand)
	}
	return row
}

// dockerState is Docker's word for the container's state.
func dockerState(e *container.Entry) string {
	switch e.State {
	case "stopped":
		return "exited"
	case "creating":
		return "created"
	}
	return e.State
}

// containerStatus says a container's state as Docker does.
func containerStatus(e *container.Entry) string {
	switch state := dockerState(e); state {
	case "exited":
		s := fmt.Sprintf("Exited (%d) %s ago", e.ExitCode, units.HumanDuration(time.Since(e.Finished)))
		if e.OOMKilled {
			s += ", out of memory"
		}
		return s
	case "created":
		return "Created"
	case "running":
		return "Up " + units.HumanDuration(time.Since(e.Started))
	case "paused":
		return fmt.Sprintf("Up %s (Paused)", units.HumanDuration(time.Since(e.Started)))
	case container.Restarting:
		return fmt.Sprintf("Restarting (%d) %s ago", e.ExitCode, units.HumanDuration(time.Since(e.Finished)))
	default:
		return strings.ToUpper(state[:min(1, len(state))]) + state[min(1, len(state)):]
	}
}

// timeLayout is how Docker writes times in lists.
const timeLayout = time.DateTime + " -0700 MST"

// maxCommand is how many characters of a command a table shows, its quotes included; Docker's number.
const maxCommand = 20

func ellipsis(s string, most int) string {
	if r := []rune(s); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return s
}

// dockerStates are what --filter status takes, as in Docker; containers here are in the first four.
var dockerStates = []string{"created", "running", "paused", "exited", "restarting", "removing", "dead"}

var containerFilters = filters[*container.Entry]{
	"id": func(v string) (func(*container.Entry) bool, error) {
		return func(e *container.Entry) bool { return strings.HasPrefix(e.PublicID(), v) }, nil
	},
	"name": func(v string) (func(*container.Entry) bool, error) {
		re, err := regexp.Compile(strings.TrimPrefix(v, "/"))
		if err != nil {
			return nil, err
		}
		return func(e *container.Entry) bool { return re.MatchString(e.Name) }, nil
	},
	"status": func(v string) (func(*container.Entry) bool, error) {
		if !slices.Contains(dockerStates, v) {
			return nil, fmt.Errorf("%q is none of %s", v, strings.Join(dockerStates, ", "))
		}
		return func(e *container.Entry) bool { return dockerState(e) == v }, nil
	},
	"label": labelFilter(func(e *container.Entry) map[string]string { return e.Labels }),
	"exited": func(v string) (func(*container.Entry) bool, error) {
		code, err := strconv.Atoi(v)
		if err != nil {
			return nil, fmt.Errorf("%q is no exit code", v)
		}
		return func(e *container.Entry) bool { return dockerState(e) == "exited" && e.ExitCode == code }, nil
	},
	"ancestor": func(v string) (func(*container.Entry) bool, error) {
		want := fullName(v)
		return func(e *container.Entry) bool {
			return fullName(e.Image) == want ||
				v != "" && strings.HasPrefix(strings.TrimPrefix(e.ImageDigest, "sha256:"), strings.TrimPrefix(v, "sha256:"))
		}, nil
	},
}
