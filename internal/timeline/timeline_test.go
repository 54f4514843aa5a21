package timeline

import (
	"strings"
	"testing"
	"time"
)

func TestPhasesAreKeptInTheOrderInWhichTheyBegan(t *testing.T) {
	r := New(time.Now().Add(-time.Second))
	done := r.Phase("second")
	r.Add("first", 0, time.Millisecond)
	done()
	r.Phase("open")
	got := r.Timeline()
	if len(got.Phases) != 3 || got.Phases[0].Name != "first" || got.Phases[1].Name != "second" {
		t.Fatalf("%+v", got)
	}
	if p := got.Phases[1]; p.Start < time.Second || p.End < p.Start {
		t.Errorf("%+v", p)
	}
	var chart strings.Builder
	if err := got.Chart(&chart, 80); err != nil {
		t.Fatal(err)
	}
	for i, line := range strings.Split(strings.TrimSuffix(chart.String(), "\n"), "\n") {
		if n := len([]rune(line)); n > 80 {
			t.Errorf("line %d has %d columns: %q", i, n, line)
		}
	}
	if !strings.Contains(chart.String(), "not ended") {
		t.Errorf("the open phase is not told:\n%s", chart.String())
	}
}
