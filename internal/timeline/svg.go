package timeline

import (
	"fmt"
	"html"
	"io"
	"math"
	"strings"
	"time"
)

// Measures of the picture, in pixels.
const (
	svgWidth   = 960
	svgRow     = 24
	svgTop     = 56 // title and axis
	svgBottom  = 20
	svgRight   = 84 // room for the last bar's text
	svgLetter  = 7.3
	svgBar     = 16
	svgLeast   = 2 // a bar of no length at all is seen
	svgDivides = 8 // at most so many parts of the axis
)

// SVG writes the timeline as a picture that needs nothing else: a bar for each phase, over an axis of milliseconds. It is
// readable on light and dark grounds, and a browser shows a phase's times when the pointer rests on it.
func (t Timeline) SVG(w io.Writer, title string) error {
	var total time.Duration
	name := len("total")
	for _, p := range t.Phases {
		total = max(total, p.Start, p.End)
		name = max(name, len(p.Name))
	}
	left := float64(name)*svgLetter + 24
	scale := (svgWidth - left - svgRight) / max(float64(total), 1)
	x := func(d time.Duration) float64 { return left + float64(d)*scale }
	height := svgTop + svgRow*len(t.Phases) + svgBottom

	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d"
  font-family="monospace" font-size="12">
<style>
.ground { fill: #fff } text { fill: #24292f } .dim { fill: #6e7781 } line { stroke: #d0d7de }
.bar { fill: #2f81f7 } .open { fill: #d29922 }
@media (prefers-color-scheme: dark) { .ground { fill: #0d1117 } text { fill: #e6edf3 } .dim { fill: #8b949e } line { stroke: #30363d } }
</style>
<rect class="ground" width="%d" height="%d"/>
<text x="12" y="20" font-size="14" font-weight="bold">%s</text>
<text class="dim" x="%d" y="20" text-anchor="end">total %s</text>
`, svgWidth, height, svgWidth, height, svgWidth, height, html.EscapeString(title), svgWidth-12, millis(total))
	step := axisStep(total)
	for at := time.Duration(0); at <= total; at += step {
		fmt.Fprintf(&b, `<line x1="%.1f" y1="%d" x2="%.1f" y2="%d"/><text class="dim" x="%.1f" y="%d" text-anchor="middle">%s</text>`+"\n",
			x(at), svgTop-8, x(at), height-svgBottom+4, x(at), svgTop-14, axisText(at, step))
	}
	for i, p := range t.Phases {
		end, class, took := p.End, "bar", millis(p.End-p.Start)
		if p.End == 0 {
			end, class, took = total, "open", "not ended"
		}
		y := svgTop + svgRow*i
		width := max((x(end) - x(p.Start)), svgLeast)
		label := html.EscapeString(p.Name)
		fmt.Fprintf(&b, `<g><title>%s: from %s to %s (%s)</title><text x="12" y="%d">%s</text>`, label, millis(p.Start), millis(end), took,
			y+13, label)
		fmt.Fprintf(&b, `<rect class="%s" x="%.1f" y="%d" width="%.1f" height="%d" rx="2"/>`, class, x(p.Start), y, width, svgBar)
		fmt.Fprintf(&b, `<text class="dim" x="%.1f" y="%d">%s</text></g>`+"\n", x(p.Start)+width+6, y+13, took)
	}
	b.WriteString("</svg>\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// axisStep is a round time by which the axis is divided: 1, 2 or 5 with noughts.
func axisStep(total time.Duration) time.Duration {
	least := max(float64(total)/svgDivides, float64(time.Microsecond))
	power := math.Pow(10, math.Floor(math.Log10(least)))
	for _, f := range []float64{1, 2, 5} {
		if f*power >= least {
			return time.Duration(f * power)
		}
	}
	return time.Duration(10 * power)
}

func axisText(at, step time.Duration) string {
	digits := 0
	if step < time.Millisecond {
		digits = 3
	}
	return fmt.Sprintf("%.*f ms", digits, float64(at)/float64(time.Millisecond))
}
