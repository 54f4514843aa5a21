package cli

import (
	"testing"

	"github.com/containerd/errdefs"

	"github.com/runcvm/runcvm/internal/container"
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
