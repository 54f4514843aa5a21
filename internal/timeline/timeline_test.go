package timeline

import (
	"encoding/xml"
	"errors"
	"io"
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

func TestThePictureIsXMLThatNamesEveryPhase(t *testing.T) {
	for _, tl := range []Timeline{
		{},
		{Phases: []Phase{{Name: "zero"}, {Name: "<kernel & more>", Start: time.Millisecond, End: 1500 * time.Millisecond}, {Name: "open", Start: time.Second}}},
		{Phases: []Phase{{Name: "short", Start: 1, End: 2}}},
	} {
		var b strings.Builder
		if err := tl.SVG(&b, `a "title" <x>`); err != nil {
			t.Fatal(err)
		}
		d := xml.NewDecoder(strings.NewReader(b.String()))
		var text strings.Builder
		for {
			token, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%v in\n%s", err, b.String())
			}
			if c, ok := token.(xml.CharData); ok {
				text.Write(c)
			}
		}
		if !strings.Contains(text.String(), `a "title" <x>`) {
			t.Errorf("the title is not in %q", text.String())
		}
		for _, p := range tl.Phases {
			if !strings.Contains(text.String(), p.Name) {
				t.Errorf("%s is not in %q", p.Name, text.String())
			}
		}
	}
}

func TestTheAxisIsDividedByRoundTimes(t *testing.T) {
	for total, want := range map[time.Duration]time.Duration{
		8 * time.Millisecond: time.Millisecond, 900 * time.Millisecond: 200 * time.Millisecond, 3366 * time.Millisecond: 500 * time.Millisecond,
		0: time.Microsecond,
	} {
		if got := axisStep(total); got != want {
			t.Errorf("%v is divided by %v, want %v", total, got, want)
		}
	}
}
