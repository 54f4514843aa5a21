package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	units "github.com/docker/go-units"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/container"
	"github.com/runcvm/runcvm/internal/monitor"
	"github.com/runcvm/runcvm/internal/monitor/api"
	"github.com/runcvm/runcvm/internal/sandbox"
)

// statsRow is a row of stats. The fields that are Docker's have its names; those of the VMM are ours.
type statsRow struct {
	Container string
	ID        string
	Name      string
	CPUPerc   string
	MemUsage  string
	MemPerc   string
	NetIO     string
	BlockIO   string
	PIDs      string
	// VMMCPUPerc and VMMMem are what the VMM's processes use on the host, the guest's work and memory included.
	VMMCPUPerc string
	VMMMem     string
}

type statsFlags struct {
	listing
	all, noStream bool
}

func (a *app) statsCommand() *cobra.Command {
	f := statsFlags{listing: listing{
		columns: "{{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDs}}\t{{.VMMMem}}",
		headings: map[string]string{
			"ID": "CONTAINER ID", "CPUPerc": "CPU %", "MemUsage": "MEM USAGE / LIMIT", "MemPerc": "MEM %", "NetIO": "NET I/O",
			"BlockIO": "BLOCK I/O", "VMMCPUPerc": "VMM CPU %", "VMMMem": "VMM MEM",
		},
	}}
	cmd := &cobra.Command{
		Use:   "stats [flags] [CONTAINER...]",
		Short: "Print what containers use, again and again",
		Long: "Print what containers use of processors (100 % is one), memory (without the page cache that can go at once),\n" +
			"disks and process ids, by the cgroup in their guest, and what their VMM takes on the host (VMM MEM). Without a\n" +
			"name: all that run.",
		RunE: func(cmd *cobra.Command, args []string) error { return a.stats(cmd.Context(), args, &f) },
	}
	cmd.Flags().BoolVarP(&f.all, "all", "a", false, "also those that do not run")
	cmd.Flags().BoolVar(&f.noStream, "no-stream", false, "only once")
	f.addFormat(cmd)
	f.addNoTrunc(cmd)
	return cmd
}

// statsPeriod lies between two samples.
const statsPeriod = time.Second

func (a *app) stats(ctx context.Context, refs []string, f *statsFlags) error {
	last := map[string]sample{}
	for {
		first := len(last) == 0
		entries, gone, err := a.statsEntries(refs, f.all, first)
		if err != nil || gone {
			return err
		}
		next := a.sampleAll(ctx, entries)
		if !first || len(entries) == 0 {
			rows := make([]statsRow, len(entries))
			for i, e := range entries {
				rows[i] = statsRowOf(e, last[e.ID], next[e.ID], f.noTrunc)
			}
			if _, err := unix.IoctlGetTermios(int(os.Stdout.Fd()), unix.TCGETS); err == nil && !f.noStream {
				fmt.Fprint(a.stdout, "\x1b[H\x1b[2J")
			}
			if err := printRows(a.stdout, &f.listing, rows); err != nil || f.noStream {
				return err
			}
		}
		if last = next; len(last) == 0 {
			last = map[string]sample{"": {}} // nothing runs yet
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(statsPeriod):
		}
	}
}

// statsEntries are the containers that are named, or all. After the first time one that is named may have been removed; gone says
// that all have.
func (a *app) statsEntries(refs []string, all, first bool) (shown []*container.Entry, gone bool, err error) {
	if len(refs) == 0 {
		entries, err := a.containers().List()
		for _, e := range entries {
			if all || e.Alive {
				shown = append(shown, e)
			}
		}
		return shown, false, err
	}
	var errs []error
	for _, ref := range refs {
		e, err := a.containers().Find(ref)
		switch {
		case err == nil:
			shown = append(shown, e)
		case first || !errdefs.IsNotFound(err):
			errs = append(errs, err)
		}
	}
	return shown, len(shown) == 0, errors.Join(errs...)
}

// sample is what a container uses at a moment; stats is nil where it does not run.
type sample struct {
	at    time.Time
	stats *api.StatsResponse
}

// sampleTimeout bounds one question: a guest that does not answer leaves its row empty.
const sampleTimeout = 10 * time.Second

func (a *app) sampleAll(ctx context.Context, entries []*container.Entry) map[string]sample {
	var mu sync.Mutex
	var group sync.WaitGroup
	samples := map[string]sample{}
	for _, e := range entries {
		if !e.Alive || e.State != string(sandbox.Running) && e.State != string(sandbox.Paused) {
			continue
		}
		group.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, sampleTimeout)
			defer cancel()
			s := sample{}
			err := a.ask(ctx, e, func(ctx context.Context, c *monitor.Client) (err error) {
				s.stats, err = c.Control.Stats(ctx, &api.StatsRequest{})
				s.at = time.Now()
				return err
			})
			if err != nil {
				return // it has just ended, or does not answer
			}
			mu.Lock()
			defer mu.Unlock()
			samples[e.ID] = s
		})
	}
	group.Wait()
	return samples
}

func statsRowOf(e *container.Entry, last, now sample, whole bool) statsRow {
	row := statsRow{
		Container: e.Name, ID: container.Short(e.PublicID()), Name: e.Name, CPUPerc: "--", MemUsage: "-- / --", MemPerc: "--", NetIO: "--",
		BlockIO: "--", PIDs: "--", VMMCPUPerc: "--", VMMMem: "--",
	}
	if whole {
		row.ID = e.PublicID()
	}
	u := now.stats.GetGuest()
	if u == nil {
		return row
	}
	used := u.GetMemoryUsed() - min(u.GetMemoryInactiveFile(), u.GetMemoryUsed())
	row.CPUPerc, row.VMMCPUPerc = percent(0), percent(0)
	if was := last.stats.GetGuest(); was != nil {
		row.CPUPerc = percent(rate(was.GetCpuUsec(), u.GetCpuUsec(), float64(u.GetBootNanos()-was.GetBootNanos())/1000))
		row.VMMCPUPerc = percent(rate(last.stats.GetVmmCpuNanos(), now.stats.GetVmmCpuNanos(), float64(now.at.Sub(last.at))))
	}
	row.MemUsage = size(used) + " / " + size(u.GetMemoryLimit())
	row.MemPerc = percent(0)
	if u.GetMemoryLimit() > 0 {
		row.MemPerc = percent(float64(used) / float64(u.GetMemoryLimit()))
	}
	row.NetIO = transfer(u.GetNetworkReceived()) + " / " + transfer(u.GetNetworkSent())
	row.BlockIO = transfer(u.GetBlockRead()) + " / " + transfer(u.GetBlockWritten())
	row.PIDs = fmt.Sprint(u.GetPids())
	row.VMMMem = size(now.stats.GetVmmMemory())
	return row
}

// rate is how much of a time was used between two readings of a counter. The numbers are the guest's, and may be a lie.
func rate(before, after uint64, elapsed float64) float64 {
	if after < before || elapsed <= 0 {
		return 0
	}
	return float64(after-before) / elapsed
}

func percent(part float64) string { return fmt.Sprintf("%.2f%%", part*100) }

// size and transfer are written as docker stats does: memory in units of 1024, transfers in units of 1000.
func size(n uint64) string     { return units.BytesSize(float64(n)) }
func transfer(n uint64) string { return units.HumanSizeWithPrecision(float64(n), 3) }
