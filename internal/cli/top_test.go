package cli

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/runcvm/runcvm/internal/container"
	"github.com/runcvm/runcvm/internal/monitor/api"
)

func TestOptionsOfPSChooseColumns(t *testing.T) {
	for options, want := range map[string]string{
		"":                         "UID PID PPID C STIME TTY TIME CMD",
		"-ef":                      "UID PID PPID C STIME TTY TIME CMD",
		"-e":                       "PID TTY TIME CMD",
		"aux":                      "USER PID %CPU %MEM VSZ RSS TTY STAT START TIME COMMAND",
		"-aux":                     "USER PID %CPU %MEM VSZ RSS TTY STAT START TIME COMMAND",
		"-eo pid,comm":             "PID COMMAND",
		"-o pid -o %cpu,user=WHO":  "PID %CPU WHO",
		"-opid,ppid":               "PID PPID",
		"--format pid,args":        "PID COMMAND",
		"--format=vsize,rsz,etime": "VSZ RSS ELAPSED",
	} {
		columns, err := psColumns(strings.Fields(options))
		var got []string
		for _, c := range columns {
			got = append(got, c.heading)
		}
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("%q: %q, %v, want %q", options, got, err, want)
		}
	}
	for _, options := range []string{"-u root", "--sort=pid", "-o colour", "-o", "-p 1", "fax", "-H"} {
		if _, err := psColumns(strings.Fields(options)); err == nil {
			t.Errorf("%q was taken", options)
		}
	}
}

func TestColumnsAreWrittenAsPSDoes(t *testing.T) {
	now := time.Date(2026, 5, 4, 12, 0, 0, 0, time.Local)
	p := &api.ProcessInfo{
		Pid: 7, Uid: 99, CpuNanos: uint64(90 * time.Minute), StartedUnixNanos: now.Add(-48 * time.Hour).UnixNano(), Sid: 7, Threads: 2,
		State: "S", ResidentMemory: 10 << 10, Name: "kthread",
	}
	v := psView{now: now, memory: 100 << 10}
	for column, want := range map[string]string{
		"user": "99", "stime": "May02", "time": "01:30:00", "etime": "2-00:00:00", "c": "3", "pcpu": "3.1", "pmem": "10.0", "rss": "10",
		"tty": "?", "stat": "Ssl", "cmd": "[kthread]", "etimes": "172800",
	} {
		if got := psNames[column].value(v, p); got != want {
			t.Errorf("%s is %q, want %q", column, got, want)
		}
	}
	for d, want := range map[time.Duration]string{time.Second: "00:01", time.Hour: "01:00:00", 25 * time.Hour: "1-01:00:00"} {
		if got := clock(d, false); got != want {
			t.Errorf("%s is %q, want %q", d, got, want)
		}
	}
}

func TestWhatAContainerUsesIsWrittenAsDockerDoes(t *testing.T) {
	e := &container.Entry{Record: container.Record{ID: strings.Repeat("a", 64), Name: "web"}}
	at := time.Now()
	last := sample{at, &api.StatsResponse{Guest: &api.Usage{BootNanos: 1e9, CpuUsec: 1e6}, VmmCpuNanos: 0}}
	next := sample{at.Add(2 * time.Second), &api.StatsResponse{VmmCpuNanos: 3e9, VmmMemory: 1 << 30, Guest: &api.Usage{
		BootNanos: 3e9, CpuUsec: 2e6, MemoryUsed: 100 << 20, MemoryInactiveFile: 36 << 20, MemoryLimit: 256 << 20, Pids: 3,
		BlockRead: 1_500_000, BlockWritten: 20,
	}}}
	want := statsRow{
		Container: "web", ID: "aaaaaaaaaaaa", Name: "web", CPUPerc: "50.00%", MemUsage: "64MiB / 256MiB", MemPerc: "25.00%", NetIO: "0B / 0B",
		BlockIO: "1.5MB / 20B", PIDs: "3", VMMCPUPerc: "150.00%", VMMMem: "1GiB",
	}
	if got := statsRowOf(e, last, next, false); got != want {
		t.Errorf("got %+v", got)
	}
	// A guest may say anything.
	lie := sample{at, &api.StatsResponse{Guest: &api.Usage{BootNanos: math.MinInt64, MemoryUsed: 1, MemoryInactiveFile: math.MaxUint64}}}
	if got := statsRowOf(e, next, lie, false); got.CPUPerc != "0.00%" || got.MemUsage != "0B / 0B" {
		t.Errorf("got %+v", got)
	}
	if got := statsRowOf(e, sample{}, sample{}, true); got.CPUPerc != "--" || got.ID != e.ID {
		t.Errorf("got %+v", got)
	}
}
