package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/runcvm/runcvm/internal/garbage"
	"github.com/runcvm/runcvm/internal/kernel"
)

// kernelUnused is for how long an entry of the kernel cache may be unused before it is in nobody's way any more: those that
// every day's starts use stay.
const kernelUnused = 24 * time.Hour

// startMargin is how much earlier than its record says a container may have begun to look for its kernel.
const startMargin = time.Minute

// garbageRow is something that nobody owns, as gc shows it.
type garbageRow struct {
	Kind, Size, Why, Path string
	Bytes                 int64
}

func (a *app) gcCommand() *cobra.Command {
	l := listing{columns: "{{.Kind}}\t{{.Size}}\t{{.Why}}\t{{.Path}}", name: "{{.Path}}"}
	var yes bool
	cmd := &cobra.Command{
		Use:   "gc",
		Short: "Show what belongs to no container and to no image, and with --yes remove it",
		Long: "Show what no container that runs and no command at work owns: what killed processes left, image disks that no\n" +
			"container uses, blobs that no image uses, kernels that were not used for a day. Nothing is removed without --yes, and\n" +
			"with it nothing that somebody has begun to use meanwhile. Containers that have ended stay, and \"runcvm rm\" removes\n" +
			"them; but not those of Docker and Podman that ended with the host, which these make anew.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			items, err := a.garbage(cmd.Context())
			if yes {
				var errs []error
				items, errs = collect(cmd.Context(), items)
				err = errors.Join(append(errs, err)...)
			}
			var rows []garbageRow
			var sum int64
			for _, i := range items {
				rows = append(rows, garbageRow{i.Kind, units.HumanSize(float64(i.Size)), i.Why, i.Path, i.Size})
				sum += i.Size
			}
			if perr := printRows(a.stdout, &l, rows); perr != nil || l.quiet || l.format != "table" {
				return errors.Join(perr, err)
			}
			switch total := units.HumanSize(float64(sum)); {
			case yes:
				fmt.Fprintf(a.stdout, "\n%d removed, %s freed\n", len(rows), total)
			case len(rows) == 0:
				fmt.Fprintln(a.stdout, "\nNothing is left over.")
			default:
				fmt.Fprintf(a.stdout, "\n%d found, %s; \"runcvm gc --yes\" removes them\n", len(rows), total)
			}
			return err
		},
	}
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "remove it")
	l.addFormat(cmd)
	l.addQuiet(cmd, "paths")
	return cmd
}

// garbage finds everything that nobody owns. What one store cannot tell is an error beside what the others have found. The
// order is that of removal: a container that goes lets go of what others keep for it.
func (a *app) garbage(ctx context.Context) ([]garbage.Item, error) {
	items, err := a.containers().Garbage(ctx)
	errs := []error{err}
	add := func(found []garbage.Item, err error) {
		items, errs = append(items, found...), append(errs, err)
	}
	// To look must not make a store.
	there := func(name string) bool {
		_, err := os.Stat(filepath.Join(a.cfg.DataDir, name))
		return err == nil
	}
	if there("disks") {
		cache, err := a.disks()
		if err != nil {
			return items, errors.Join(append(errs, err)...)
		}
		add(cache.Garbage(ctx))
	}
	if there("images") {
		store, err := a.images()
		if err != nil {
			return items, errors.Join(append(errs, err)...)
		}
		add(store.Garbage(ctx))
	}
	since, err := a.kernelsUsedSince()
	errs = append(errs, err)
	if err == nil {
		add(kernel.Garbage(filepath.Join(a.cfg.DataDir, "kernels"), since))
	}
	return items, errors.Join(errs...)
}

// kernelsUsedSince is a time that lies before the start of every container that lives: each has looked its kernel up since.
func (a *app) kernelsUsedSince() (time.Time, error) {
	since := time.Now().Add(-kernelUnused)
	entries, err := a.containers().Alive()
	for _, e := range entries {
		if begun := e.Created.Add(-startMargin); begun.Before(since) {
			since = begun
		}
	}
	return since, err
}

// collect removes the items and returns those that it could.
func collect(ctx context.Context, items []garbage.Item) (gone []garbage.Item, errs []error) {
	for _, i := range items {
		removed, err := i.Remove(ctx)
		if err != nil {
			errs = append(errs, fmt.Errorf("remove %s: %w", i.Path, err))
		}
		if removed && err == nil {
			gone = append(gone, i)
		}
	}
	return gone, errs
}
