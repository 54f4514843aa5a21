package ocicli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/runcvm/runcvm/internal/container"
	"github.com/runcvm/runcvm/internal/monitor"
	"github.com/runcvm/runcvm/internal/monitor/api"
	"github.com/runcvm/runcvm/internal/sandbox"
)

// event is a line of events, in runc's shape.
type event struct {
	Type string `json:"type"`
	ID   string `json:"id"`
	Data *stats `json:"data,omitempty"`
}

// stats are what a container uses, in runc's shape. They are the guest's.
type stats struct {
	CPU     cpuStats            `json:"cpu"`
	CPUSet  struct{}            `json:"cpuset"`
	Memory  memoryStats         `json:"memory"`
	Pids    pidsStats           `json:"pids"`
	Blkio   blkioStats          `json:"blkio"`
	Hugetlb map[string]struct{} `json:"hugetlb"`
	RDT     struct{}            `json:"intel_rdt"`
	Network []struct{}          `json:"network_interfaces"`
}

type cpuStats struct {
	// In nanoseconds.
	Usage struct {
		Total  uint64 `json:"total,omitempty"`
		Kernel uint64 `json:"kernel"`
		User   uint64 `json:"user"`
	} `json:"usage"`
	Throttling struct {
		ThrottledPeriods uint64 `json:"throttledPeriods,omitempty"`
		ThrottledTime    uint64 `json:"throttledTime,omitempty"`
	} `json:"throttling"`
}

type memoryEntry struct {
	Limit   uint64 `json:"limit"`
	Usage   uint64 `json:"usage,omitempty"`
	Failcnt uint64 `json:"failcnt"`
}

type memoryStats struct {
	Usage memoryEntry       `json:"usage"`
	Raw   map[string]uint64 `json:"raw,omitempty"`
}

type pidsStats struct {
	Current uint64 `json:"current,omitempty"`
	Limit   uint64 `json:"limit,omitempty"`
}

type blkioEntry struct {
	Op    string `json:"op,omitempty"`
	Value uint64 `json:"value,omitempty"`
}

type blkioStats struct {
	Bytes []blkioEntry `json:"ioServiceBytesRecursive,omitempty"`
}

func statsOf(u *api.Usage) *stats {
	s := &stats{Hugetlb: map[string]struct{}{}}
	const usec = uint64(time.Microsecond)
	s.CPU.Usage.Total = u.GetCpuUsec() * usec
	s.CPU.Usage.Kernel = u.GetCpuSystemUsec() * usec
	s.CPU.Usage.User = s.CPU.Usage.Total - min(s.CPU.Usage.Kernel, s.CPU.Usage.Total)
	s.CPU.Throttling.ThrottledPeriods = u.GetCpuThrottledPeriods()
	s.CPU.Throttling.ThrottledTime = u.GetCpuThrottledUsec() * usec
	s.Memory.Usage = memoryEntry{Limit: u.GetMemoryLimit(), Usage: u.GetMemoryUsed(), Failcnt: u.GetOomKills()}
	s.Memory.Raw = map[string]uint64{"inactive_file": u.GetMemoryInactiveFile(), "total_inactive_file": u.GetMemoryInactiveFile()}
	s.Pids = pidsStats{u.GetPids(), u.GetPidsLimit()}
	s.Blkio.Bytes = []blkioEntry{{"Read", u.GetBlockRead()}, {"Write", u.GetBlockWritten()}}
	return s
}

func (a *app) eventsCommand() *cobra.Command {
	var once bool
	var interval time.Duration
	cmd := &cobra.Command{
		Use: "events ID", Short: "Print what a container uses, and when its guest has killed for lack of memory", Args: exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if interval <= 0 {
				return errors.New("duration interval must be greater than 0")
			}
			e, err := a.find(args[0])
			if err != nil {
				return err
			}
			if s := status(e); s != sandbox.Running && s != sandbox.Paused {
				return fmt.Errorf("container with id %s is not running", args[0])
			}
			if once {
				return a.printStats(cmd.Context(), e, nil)
			}
			return a.follow(cmd.Context(), e, interval)
		},
	}
	cmd.Flags().BoolVar(&once, "stats", false, "print what it uses once")
	cmd.Flags().DurationVar(&interval, "interval", 5*time.Second, "from one line to the next")
	return cmd
}

// oomPause is how often the guest is asked whether it has killed for lack of memory.
const oomPause = time.Second

// follow prints until the container has ended.
func (a *app) follow(ctx context.Context, e *container.Entry, interval time.Duration) error {
	var kills uint64
	next := time.Now().Add(interval)
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(min(oomPause, max(0, time.Until(next)))):
		}
		u, err := a.usage(ctx, e)
		if errors.Is(err, errNotRunning) {
			return nil
		}
		if err != nil {
			return err
		}
		if u.GetOomKills() > kills {
			kills = u.GetOomKills()
			if err := a.print(event{Type: "oom", ID: e.Bundle.ID}); err != nil {
				return err
			}
		}
		if time.Now().Before(next) {
			continue
		}
		next = next.Add(interval)
		if err := a.printStats(ctx, e, u); err != nil {
			return err
		}
	}
}

func (a *app) printStats(ctx context.Context, e *container.Entry, u *api.Usage) (err error) {
	if u == nil {
		if u, err = a.usage(ctx, e); err != nil {
			return err
		}
	}
	return a.print(event{Type: "stats", ID: e.Bundle.ID, Data: statsOf(u)})
}

func (a *app) print(e event) error { return json.NewEncoder(a.stdout).Encode(e) }

func (a *app) usage(ctx context.Context, e *container.Entry) (*api.Usage, error) {
	var u *api.Usage
	err := a.ask(ctx, e, func(ctx context.Context, c *monitor.Client) error {
		r, err := c.Control.Stats(ctx, &api.StatsRequest{})
		u = r.GetGuest()
		return err
	})
	return u, err
}
