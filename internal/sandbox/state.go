package sandbox

import (
	"errors"
	"fmt"
	"slices"
)

// State is where a container is in its life; the OCI runtime specification's words, and paused as runc has it.
type State string

// The states of a container.
const (
	Creating State = "creating"
	Created  State = "created"
	Running  State = "running"
	Paused   State = "paused"
	Stopped  State = "stopped"
)

// transitions lists for each state the states that may follow it.
var transitions = map[State][]State{
	Creating: {Created, Stopped},
	Created:  {Running, Stopped},
	Running:  {Paused, Stopped},
	Paused:   {Running, Stopped},
	Stopped:  {},
}

// ErrTransition says that a call is not legal in the container's state.
var ErrTransition = errors.New("not legal in this state")

func (s State) to(next State) error {
	if !slices.Contains(transitions[s], next) {
		return fmt.Errorf("a container that is %s cannot become %s: %w", s, next, ErrTransition)
	}
	return nil
}
