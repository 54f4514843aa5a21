package cli

import (
	"testing"
	"time"
)

func TestMomentsAreDockers(t *testing.T) {
	now := time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)
	for s, want := range map[string]time.Time{
		"10m":                            now.Add(-10 * time.Minute),
		"1h30m":                          now.Add(-90 * time.Minute),
		"1136073845":                     time.Unix(1136073845, 0),
		"1136073845.000000001":           time.Unix(1136073845, 1),
		"1136073845.5":                   time.Unix(1136073845, 5e8),
		"2006-01-02T15:04:05Z":           time.Date(2006, 1, 2, 15, 4, 5, 0, time.UTC),
		"2006-01-02T15:04:05.999+02:00":  time.Date(2006, 1, 2, 13, 4, 5, 999e6, time.UTC),
		"2006-01-02T15:04:05":            time.Date(2006, 1, 2, 15, 4, 5, 0, time.Local),
		"2006-01-02T15:04":               time.Date(2006, 1, 2, 15, 4, 0, 0, time.Local),
		"2006-01-02":                     time.Date(2006, 1, 2, 0, 0, 0, 0, time.Local),
		"2006-01-02Z":                    time.Date(2006, 1, 2, 0, 0, 0, 0, time.UTC),
		"2006-01-02T15:04:05.123456789Z": time.Date(2006, 1, 2, 15, 4, 5, 123456789, time.UTC),
	} {
		got, err := parseMoment(s, now)
		if err != nil || !got.Equal(want) {
			t.Errorf("%s is %s, %v, want %s", s, got, err, want)
		}
	}
	for _, s := range []string{"", "yesterday", "1.2.3", "12.1234567890", "2006-13-01"} {
		if got, err := parseMoment(s, now); err == nil {
			t.Errorf("%q is %s", s, got)
		}
	}
}
