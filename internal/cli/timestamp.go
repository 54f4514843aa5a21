package cli

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// timeLayouts are the forms of a date and time that Docker takes; those without a zone are in this machine's.
var timeLayouts = []string{
	time.RFC3339Nano, "2006-01-02T15:04Z07:00", "2006-01-02T15Z07:00", "2006-01-02Z07:00",
	"2006-01-02T15:04:05.999999999", "2006-01-02T15:04", "2006-01-02T15", "2006-01-02",
}

// parseMoment reads a moment as docker logs --since takes it: a date and time, seconds since the epoch, or how long ago it was.
func parseMoment(s string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(s); err == nil {
		return now.Add(-d), nil
	}
	for _, layout := range timeLayouts {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return t, nil
		}
	}
	whole, fraction, _ := strings.Cut(s, ".")
	seconds, err := strconv.ParseInt(whole, 10, 64)
	if err == nil && len(fraction) <= 9 {
		nanos := int64(0)
		if fraction != "" {
			var n uint64
			n, err = strconv.ParseUint(fraction+strings.Repeat("0", 9-len(fraction)), 10, 64)
			nanos = int64(n)
		}
		if err == nil {
			return time.Unix(seconds, nanos), nil
		}
	}
	return time.Time{}, fmt.Errorf(
		"%q is no moment: give a date and time (2006-01-02T15:04:05), seconds since 1970, or how long ago (10m)", s)
}

// momentFlag reads a flag with a moment; empty is the zero time.
func momentFlag(name, s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	t, err := parseMoment(s, now)
	return t, flagError(name, err)
}
