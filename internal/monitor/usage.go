package monitor

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/runcvm/runcvm/internal/guestapi"
	"github.com/runcvm/runcvm/internal/monitor/api"
)

// Stats implements api.ControlService.
func (s *controlServer) Stats(ctx context.Context, _ *api.StatsRequest) (*api.StatsResponse, error) {
	c, err := s.running()
	if err != nil {
		return nil, refuse(err)
	}
	u, err := c.Usage(ctx)
	if err != nil {
		return nil, refuse(err)
	}
	r := &api.StatsResponse{Guest: &api.Usage{
		BootNanos: u.GetBootNanos(), CpuUsec: u.GetCpuUsec(), CpuSystemUsec: u.GetCpuSystemUsec(),
		CpuThrottledUsec: u.GetCpuThrottledUsec(), CpuThrottledPeriods: u.GetCpuThrottledPeriods(), Cpus: u.GetCpus(),
		MemoryUsed: u.GetMemoryUsed(), MemoryInactiveFile: u.GetMemoryInactiveFile(), MemoryLimit: u.GetMemoryLimit(),
		Pids: u.GetPids(), PidsLimit: u.GetPidsLimit(), BlockRead: u.GetBlockRead(), BlockWritten: u.GetBlockWritten(),
		OomKills: u.GetOomKills(), NetworkReceived: u.GetNetworkReceived(), NetworkSent: u.GetNetworkSent(),
	}}
	r.VmmCpuNanos, r.VmmMemory = othersUsage()
	return r, nil
}

// othersUsage sums up what the processes of the monitor's pid namespace use but the monitor itself: the VMM and its helpers.
func othersUsage() (cpuNanos, memory uint64) {
	dirs, err := os.ReadDir("/proc")
	if err != nil {
		return 0, 0
	}
	for _, d := range dirs {
		pid, err := strconv.Atoi(d.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		stat, err := os.ReadFile(filepath.Join("/proc", d.Name(), "stat"))
		if err != nil {
			continue // it has ended
		}
		// After the name, in parentheses, field 3 of proc(5) comes first.
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		const utime, stime, rss = 14 - 3, 15 - 3, 24 - 3
		if len(fields) <= rss {
			continue
		}
		value := func(i int) uint64 {
			n, _ := strconv.ParseUint(fields[i], 10, 64)
			return n
		}
		// /proc counts in hundredths of a second (USER_HZ).
		cpuNanos += (value(utime) + value(stime)) * uint64(10*time.Millisecond)
		memory += value(rss) * uint64(os.Getpagesize())
	}
	return cpuNanos, memory
}

// Top implements api.ControlService.
func (s *controlServer) Top(ctx context.Context, _ *api.TopRequest) (*api.TopResponse, error) {
	c, err := s.running()
	if err != nil {
		return nil, refuse(err)
	}
	list, total, err := c.Processes(ctx)
	if err != nil {
		return nil, refuse(err)
	}
	r := &api.TopResponse{Total: uint32(total)}
	for _, p := range list {
		r.Processes = append(r.Processes, processInfo(p))
	}
	return r, nil
}

func processInfo(p *guestapi.Process) *api.ProcessInfo {
	return &api.ProcessInfo{
		Pid: p.GetPid(), Ppid: p.GetPpid(), Pgid: p.GetPgid(), Sid: p.GetSid(), Uid: p.GetUid(), Gid: p.GetGid(),
		User: p.GetUser(), Group: p.GetGroup(), State: p.GetState(), StartedUnixNanos: p.GetStartedUnixNanos(), Tty: p.GetTty(),
		CpuNanos: p.GetCpuNanos(), VirtualMemory: p.GetVirtualMemory(), ResidentMemory: p.GetResidentMemory(), Nice: p.GetNice(),
		Threads: p.GetThreads(), Name: p.GetName(), Args: p.GetArgs(),
	}
}
