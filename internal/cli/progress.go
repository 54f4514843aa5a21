package cli

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/registry"
)

// isTerminal says whether what is written goes to a terminal.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// columns is the width of a terminal; some do not know theirs.
func columns(w io.Writer) int {
	f, ok := w.(*os.File)
	if !ok {
		return 0
	}
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0
	}
	return int(size.Col)
}

// progress shows a pull: bars at a terminal, else a line for each event, as Docker has them.
type progress struct {
	ref   registry.Reference
	quiet bool
	bars  *mpb.Progress // nil: lines

	mu  sync.Mutex
	out io.Writer
}

func newProgress(w io.Writer, ref registry.Reference, quiet bool) *progress {
	p := &progress{ref: ref, quiet: quiet, out: w}
	if !quiet && isTerminal(w) && columns(w) > 0 {
		p.bars = mpb.New(mpb.WithOutput(w), mpb.WithWidth(40), mpb.WithRefreshRate(120*time.Millisecond))
		p.out = p.bars // above the bars
	}
	return p
}

func (p *progress) line(format string, args ...any) {
	if p.quiet {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(p.out, format+"\n", args...)
}

func (p *progress) begin() {
	what := p.ref.Tag
	if p.ref.Digest != "" {
		what = p.ref.Digest.String()
	}
	p.line("%s: Pulling from %s", what, p.ref.Repository())
}

// end says what came of it; an error is for the caller to tell.
func (p *progress) end(r registry.Result, err error) {
	if p.bars != nil {
		p.bars.Wait()
		p.out = os.Stderr
	}
	if err != nil {
		return
	}
	p.line("Digest: %s", r.Image.Source)
	if r.New {
		p.line("Status: Downloaded newer image for %s", r.Image.Name)
	} else {
		p.line("Status: Image is up to date for %s", r.Image.Name)
	}
}

// Note implements registry.Progress.
func (p *progress) Note(line string) { p.line("%s", oneLine(line)) }

// Layer implements registry.Progress.
func (p *progress) Layer(d digest.Digest, size int64) registry.LayerProgress {
	l := &layerProgress{p: p, name: d.Encoded()[:12], size: size, state: "Pulling fs layer"}
	if p.bars == nil {
		return l
	}
	// Without a total at first a bar is not over when all bytes have come: the layer is not.
	l.bar = p.bars.New(0, mpb.BarStyle(),
		mpb.PrependDecorators(decor.Name(l.name+": "), decor.Any(func(decor.Statistics) string { return l.shown() }, decor.WCSyncSpaceR)),
		mpb.AppendDecorators(decor.CountersKibiByte("% .1f / % .1f")))
	l.bar.SetTotal(size, false)
	return l
}

// layerProgress is a layer's bar, or its lines.
type layerProgress struct {
	p    *progress
	name string
	size int64
	had  int64
	came int64
	bar  *mpb.Bar

	mu    sync.Mutex
	state string
}

func (l *layerProgress) shown() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state
}

// to changes the state; without a bar that is a line.
func (l *layerProgress) to(state string) {
	l.mu.Lock()
	l.state = state
	l.mu.Unlock()
	if l.bar == nil {
		l.p.line("%s: %s", l.name, state)
	}
}

// Waiting implements registry.LayerProgress.
func (l *layerProgress) Waiting() { l.to("Waiting for another pull") }

// Have implements registry.LayerProgress.
func (l *layerProgress) Have(n int64) {
	l.had = n
	switch {
	case n == l.size:
		l.to("Already exists")
	case n > 0:
		l.to("Resuming")
	default:
		l.to("Downloading")
	}
	if l.bar != nil {
		l.bar.SetCurrent(n)
	}
}

// Add implements registry.LayerProgress.
func (l *layerProgress) Add(n int) {
	l.came += int64(n)
	if l.bar != nil {
		l.bar.SetCurrent(l.had + l.came)
	}
}

// Done implements registry.LayerProgress.
func (l *layerProgress) Done(err error) {
	switch {
	case err != nil:
		if l.bar != nil {
			l.bar.Abort(false)
		}
		return
	case l.had < l.size:
		l.to("Pull complete")
	}
	if l.bar != nil {
		l.bar.SetCurrent(l.size)
		l.bar.SetTotal(l.size, true)
	}
}
