package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestAValueIsTheMedianOfItsSamples(t *testing.T) {
	for _, tt := range []struct {
		samples []float64
		want    float64
	}{
		{[]float64{3}, 3},
		{[]float64{9, 1, 2}, 2},
		{[]float64{4, 1, 3, 100}, 3.5},
	} {
		r := Result{Samples: tt.samples}
		if r.finish(1); r.Value != tt.want {
			t.Errorf("%v: %g, want %g", tt.samples, r.Value, tt.want)
		}
	}
}

func TestAGoalIsTheMostThatAValueMayBe(t *testing.T) {
	for value, want := range map[float64]bool{0.9: true, 1: true, 1.001: false} {
		r := Result{Goal: new(1.0), Samples: []float64{value}}
		if r.finish(1); *r.Met != want {
			t.Errorf("%g of at most 1: met is %t", value, *r.Met)
		}
	}
}

func TestAGoalCanBeTheLeastThatAValueMayBe(t *testing.T) {
	for value, want := range map[float64]bool{0.949: false, 0.95: true, 1.2: true} {
		r := Result{Goal: new(0.95), AtLeast: true, Samples: []float64{value}}
		if r.finish(1); *r.Met != want {
			t.Errorf("%g of at least 0.95: met is %t", value, *r.Met)
		}
	}
}

func TestARowWithoutSamplesIsNoResult(t *testing.T) {
	r := Result{Goal: new(1.0)}
	r.finish(1)
	if _, err := json.Marshal(r); err == nil {
		t.Error("it was written")
	}
}

func TestARowThatWasSkippedSaysSo(t *testing.T) {
	r := Result{Name: "row", Goal: new(1.0), Skipped: "not built"}
	r.finish(1)
	b, err := json.Marshal(r)
	if err != nil || !strings.Contains(string(b), `"skipped":"not built"`) || !strings.Contains(r.String(), "not built") || r.Met != nil {
		t.Errorf("%s %v, %s", b, err, r)
	}
}

func TestNumbersKeepFourDigits(t *testing.T) {
	for in, want := range map[float64]float64{0: 0, 1.23456: 1.235, 0.000123456: 0.0001235, 98765.4: 98770, -1.23456: -1.235} {
		if got := round(in); got != want {
			t.Errorf("round(%g) = %g, want %g", in, got, want)
		}
	}
}

func TestPercentile(t *testing.T) {
	samples := []float64{5, 1, 4, 2, 3}
	for p, want := range map[int]float64{1: 1, 50: 3, 95: 5, 100: 5} {
		if got := percentile(samples, p); got != want {
			t.Errorf("%d of 100: %g, want %g", p, got, want)
		}
	}
	if samples[0] != 5 {
		t.Error("the samples have been put in another order")
	}
}

func TestARunOfSomeRowsLeavesTheOthers(t *testing.T) {
	earlier := Report{Started: time.Unix(1, 0), Machine: Machine{CPU: "a"}, Results: []Result{{Name: "x", Value: 1}, {Name: "y", Value: 2}}}
	run := Report{Started: time.Unix(2, 0), Machine: Machine{CPU: "a"}, Results: []Result{{Name: "z", Value: 30}, {Name: "x", Value: 10}}}
	merged, err := run.merge(earlier)
	if err != nil {
		t.Fatal(err)
	}
	again := &run.Started
	want := []Result{{Name: "x", Value: 10, Started: again}, {Name: "y", Value: 2}, {Name: "z", Value: 30, Started: again}}
	if diff := cmp.Diff(want, merged.Results); diff != "" || !merged.Started.Equal(earlier.Started) {
		t.Errorf("started %s, results (-want +got):\n%s", merged.Started, diff)
	}
	run.Machine.CPU = "b"
	if _, err := run.merge(earlier); err == nil {
		t.Error("results of two machines stand beside each other")
	}
	if alone, err := run.merge(Report{}); err != nil || len(alone.Results) != 2 || alone.Results[0].Started != nil {
		t.Errorf("without earlier results: %v, %v", alone, err)
	}
}
