package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// Report is the file of results.
type Report struct {
	Started time.Time `json:"started"`
	Seconds float64   `json:"seconds"`
	Machine Machine   `json:"machine"`
	Results []Result  `json:"results"`
}

// Result is one line of the report.
type Result struct {
	Name string `json:"name"`
	// Started is when a run began that measured some rows only; of others the report says it.
	Started *time.Time `json:"started,omitempty"`
	// What says in a sentence what was compared.
	What string `json:"what"`
	Unit string `json:"unit"`
	// Goal is the most that Value may be; without one the row is there to explain another.
	Goal *float64 `json:"goal,omitempty"`
	// AtLeast says that Goal is the least that Value may be instead.
	AtLeast bool `json:"at_least,omitempty"`
	// Value is the median of Samples.
	Value float64 `json:"value"`
	Met   *bool   `json:"met,omitempty"`
	// Samples are in Unit, in the order in which they were taken.
	Samples []float64 `json:"samples"`
	// Raw is what Samples were computed from, by name with the unit at its end.
	Raw map[string][]float64 `json:"raw,omitempty"`
	// Skipped says why nothing was measured; there are no samples then, and Value says nothing.
	Skipped string `json:"skipped,omitempty"`
	// Note is what to know of the value; of a missed goal also what would reach it.
	Note string `json:"note,omitempty"`
	// Remedy is what would reach the goal; it becomes a part of Note where the goal is missed.
	Remedy string `json:"-"`
	// LoadBefore and LoadAfter are the load averages over a minute before and after the row.
	LoadBefore float64 `json:"load_before"`
	LoadAfter  float64 `json:"load_after"`
}

// finish computes what follows from the samples, and rounds all to four digits: more is noise. A machine with more to do than
// processors is part of the note, since no time measured on it is the program's own.
func (r *Result) finish(processors int) {
	if r.Skipped != "" {
		r.Goal, r.Samples = nil, []float64{}
		return
	}
	r.Value = round(median(r.Samples))
	if r.Goal != nil {
		met := r.Value <= *r.Goal
		if r.AtLeast {
			met = r.Value >= *r.Goal
		}
		r.Met = &met
		r.addNotes(processors)
	}
	for _, list := range r.Raw {
		roundAll(list)
	}
	roundAll(r.Samples)
}

func (r *Result) addNotes(processors int) {
	var notes []string
	if n := len(r.Samples); n > 1 {
		notes = append(notes, fmt.Sprintf("samples from %.4g to %.4g", slices.Min(r.Samples), slices.Max(r.Samples)))
	}
	if load := max(r.LoadBefore, r.LoadAfter); load > float64(processors)+1 { // the benchmark itself counts as one
		notes = append(notes, fmt.Sprintf("the machine was busy: a load of %.3g on %d processors", load, processors))
	}
	if !*r.Met && r.Remedy != "" {
		notes = append(notes, r.Remedy)
	}
	r.Note = strings.Join(notes, "; ")
}

func (r Result) String() string {
	if r.Skipped != "" {
		return fmt.Sprintf("%-24s skipped: %s", r.Name, r.Skipped)
	}
	s := fmt.Sprintf("%-24s %10.4g %-6s", r.Name, r.Value, r.Unit)
	if r.Goal == nil {
		return s
	}
	verdict := "met"
	if !*r.Met {
		verdict = "MISSED"
	}
	return fmt.Sprintf("%s goal %-6g %s", s, *r.Goal, verdict)
}

func median(samples []float64) float64 {
	if len(samples) == 0 {
		return math.NaN() // not valid JSON: a row without samples cannot be reported
	}
	s := slices.Sorted(slices.Values(samples))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

func round(v float64) float64 {
	if v == 0 || math.IsNaN(v) {
		return v
	}
	scale := math.Pow(10, 3-math.Floor(math.Log10(math.Abs(v))))
	return math.Round(v*scale) / scale
}

func roundAll(list []float64) {
	for i, v := range list {
		list[i] = round(v)
	}
}

// pairs measures two sides in turn, n times after one round that does not count, and returns the seconds of each.
func pairs(n int, ours, baseline func() (time.Duration, error)) (a, b []float64, err error) {
	for i := range n + 1 {
		ta, err := ours()
		if err != nil {
			return nil, nil, err
		}
		tb, err := baseline()
		if err != nil {
			return nil, nil, fmt.Errorf("baseline: %w", err)
		}
		if i > 0 {
			a, b = append(a, ta.Seconds()), append(b, tb.Seconds())
		}
	}
	return a, b, nil
}

// ratios divides pair by pair.
func ratios(a, b []float64) []float64 {
	r := make([]float64, len(a))
	for i := range a {
		r[i] = a[i] / b[i]
	}
	return r
}
