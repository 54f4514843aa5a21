package hostile

import (
	"context"
	"math"
	"strings"

	"github.com/runcvm/runcvm/internal/guestapi"
)

// control lies about what the container uses and which processes it has; with never it does not answer at all.
type control struct{ never bool }

func (c *control) Pause(context.Context, *guestapi.PauseRequest) (*guestapi.PauseResponse, error) {
	if c.never {
		select {}
	}
	return &guestapi.PauseResponse{}, nil
}

func (c *control) Resume(context.Context, *guestapi.ResumeRequest) (*guestapi.ResumeResponse, error) {
	if c.never {
		select {}
	}
	return &guestapi.ResumeResponse{}, nil
}

func (c *control) Stats(context.Context, *guestapi.StatsRequest) (*guestapi.StatsResponse, error) {
	if c.never {
		select {}
	}
	const most = math.MaxUint64
	return &guestapi.StatsResponse{
		BootNanos: math.MinInt64, CpuUsec: most, CpuSystemUsec: most, Cpus: math.MaxUint32, MemoryUsed: 1, MemoryInactiveFile: most,
		MemoryLimit: 0, Pids: most, BlockRead: most, BlockWritten: most, OomKills: most, NetworkReceived: most, NetworkSent: most,
	}, nil
}

// ListProcesses tells of more processes than the contract allows, one of them with texts of 1 MiB that a terminal acts on.
func (c *control) ListProcesses(context.Context, *guestapi.ListProcessesRequest) (*guestapi.ListProcessesResponse, error) {
	if c.never {
		select {}
	}
	r := &guestapi.ListProcessesResponse{Total: 1}
	text := lies(256 << 10)
	r.Processes = append(r.Processes, &guestapi.Process{
		Pid: math.MaxUint32, Ppid: math.MaxUint32, User: text, Group: text, State: text, Tty: text, Name: text,
		Args: append([]string{text, ""}, strings.Split(strings.Repeat("x ", 2000), " ")...), StartedUnixNanos: math.MinInt64,
		CpuNanos: math.MaxUint64, VirtualMemory: math.MaxUint64, ResidentMemory: math.MaxUint64, Nice: math.MinInt32,
	})
	for range 10_000 {
		r.Processes = append(r.Processes, &guestapi.Process{Pid: 1})
	}
	return r, nil
}

func (c *control) Update(context.Context, *guestapi.UpdateRequest) (*guestapi.UpdateResponse, error) {
	return &guestapi.UpdateResponse{}, nil
}
