package cli

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/runcvm/runcvm/internal/container"
	"github.com/runcvm/runcvm/internal/monitor/api"
)

func TestStatsGoOnWithoutAContainerThatIsRemoved(t *testing.T) {
	a := testApp(t)
	a.cfg.DataDir, a.cfg.RunDir = t.TempDir(), t.TempDir()
	for _, id := range []string{"aaaa", "bbbb"} {
		h, err := a.containers().Create(t.Context(), container.Record{ID: id, Name: "name-" + id, State: "stopped"})
		if err != nil {
			t.Fatal(err)
		}
		if err := h.Close("name-"+id, false); err != nil {
			t.Fatal(err)
		}
	}
	refs := []string{"name-aaaa", "bbbb"}
	if entries, gone, err := a.statsEntries(refs, false, true); err != nil || len(entries) != 2 || gone {
		t.Fatal(entries, gone, err)
	}
	if _, _, err := a.statsEntries([]string{"bbbb", "cccc"}, false, true); !errdefs.IsNotFound(err) {
		t.Errorf("a name that never was: %v", err)
	}
	for i, id := range []string{"aaaa", "bbbb"} {
		e, err := a.containers().Find(id)
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Discard(); err != nil {
			t.Fatal(err)
		}
		entries, gone, err := a.statsEntries(refs, false, false)
		if err != nil || len(entries) != 1-i || gone != (i == 1) {
			t.Errorf("after %d were removed: %v, %t, %v", i+1, entries, gone, err)
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
