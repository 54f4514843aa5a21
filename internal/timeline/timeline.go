// Package timeline keeps when each phase of a sandbox's start began and ended.
//
// A Recorder may be used by several goroutines; Phase and Done are legal at any time, Timeline gives a copy.
package timeline

import (
	"slices"
	"sync"
	"time"
)

// Phase is one step of a start. Start and End are nanoseconds since the Timeline's Zero; End is 0 while it runs.
type Phase struct {
	Name  string        `json:"name"`
	Start time.Duration `json:"start_ns"`
	End   time.Duration `json:"end_ns"`
}

// Timeline is the record of one start, in the order in which the phases began.
type Timeline struct {
	Zero   time.Time `json:"zero"`
	Phases []Phase   `json:"phases"`
}

// Recorder collects phases.
type Recorder struct {
	zero time.Time

	mu     sync.Mutex
	phases []Phase
}

// New begins a timeline at zero, which may lie before the call (when the command itself began).
func New(zero time.Time) *Recorder { return &Recorder{zero: zero} }

// Phase begins a phase and returns the function that ends it.
func (r *Recorder) Phase(name string) (done func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := len(r.phases)
	r.phases = append(r.phases, Phase{Name: name, Start: time.Since(r.zero)})
	return sync.OnceFunc(func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.phases[i].End = time.Since(r.zero)
	})
}

// Add records a phase that somebody else measured.
func (r *Recorder) Add(name string, start, end time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.phases = append(r.phases, Phase{Name: name, Start: start, End: end})
}

// Now is the time since the timeline's zero.
func (r *Recorder) Now() time.Duration { return time.Since(r.zero) }

// Timeline returns what was recorded so far.
func (r *Recorder) Timeline() Timeline {
	r.mu.Lock()
	defer r.mu.Unlock()
	phases := slices.Clone(r.phases)
	slices.SortStableFunc(phases, func(a, b Phase) int { return int(a.Start - b.Start) })
	return Timeline{Zero: r.zero, Phases: phases}
}
