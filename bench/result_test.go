package main

import (
	"encoding/json"
	"strings"
	"testing"
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
