package timeline

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// Chart writes the timeline as bars of text, one line a phase, at most width columns wide (at least 60).
func (t Timeline) Chart(w io.Writer, width int) error {
	var total time.Duration
	name := 0
	for _, p := range t.Phases {
		total = max(total, p.Start, p.End)
		name = max(name, len(p.Name))
	}
	if total == 0 {
		_, err := fmt.Fprintln(w, "no phases recorded")
		return err
	}
	bar := max(width, 60) - name - 24
	column := func(d time.Duration) int { return int(int64(d) * int64(bar) / int64(total)) }
	for _, p := range t.Phases {
		end, took := p.End, millis(p.End-p.Start)
		if p.End == 0 {
			end, took = total, "not ended"
		}
		from := min(column(p.Start), bar-1)
		length := max(column(end)-from, 1)
		if _, err := fmt.Fprintf(w, "%-*s %9s %9s  %s%s\n", name, p.Name, millis(p.Start), took,
			strings.Repeat(" ", from), strings.Repeat("█", length)); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "%-*s %9s %9s\n", name, "total", "", millis(total))
	return err
}

func millis(d time.Duration) string {
	return fmt.Sprintf("%.1fms", float64(d)/float64(time.Millisecond))
}
