// Package cleanup undoes what was done: steps are added as things are made, and run in reverse order.
//
// Add is legal until Run or Release; Run and Release may be called any number of times, only the first has an effect.
package cleanup

import (
	"context"
	"errors"
	"slices"
	"time"
)

// Stack holds the steps. The zero value is ready to use. It is not safe for use by several goroutines at once.
type Stack struct {
	steps []func(context.Context) error
}

// Add puts a step on the stack.
func (s *Stack) Add(step func(context.Context) error) { s.steps = append(s.steps, step) }

// AddFunc is Add for a step that needs no context.
func (s *Stack) AddFunc(step func() error) { s.Add(func(context.Context) error { return step() }) }

// Run calls the steps, the last added first, and joins their errors. They get a context that outlives the caller's
// cancellation and ends after the timeout: what was made has to go even when the caller was told to stop.
func (s *Stack) Run(ctx context.Context, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer cancel()
	var errs []error
	for _, step := range slices.Backward(s.steps) {
		errs = append(errs, step(ctx))
	}
	s.steps = nil
	return errors.Join(errs...)
}

// Release forgets the steps: what was made stays.
func (s *Stack) Release() { s.steps = nil }
