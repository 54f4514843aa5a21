package monitor

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"
)

// RestartPolicy says when a container that has ended is started again by its monitor. The words are Docker's.
type RestartPolicy struct {
	// Name is no (or empty), on-failure, always or unless-stopped. There is no daemon that starts containers after the host's
	// boot, so the last two mean the same.
	Name string `json:"name,omitempty"`
	// Max is how often on-failure tries; 0 is without end.
	Max int `json:"max,omitempty"`
}

// ParseRestartPolicy reads a policy as docker run --restart takes it.
func ParseRestartPolicy(s string) (RestartPolicy, error) {
	name, count, hasCount := strings.Cut(s, ":")
	p := RestartPolicy{Name: name}
	switch name {
	case "no", "always", "unless-stopped":
		if hasCount {
			return p, fmt.Errorf("a number of tries goes with on-failure only, not with %q", name)
		}
	case "on-failure":
		var err error
		if hasCount {
			p.Max, err = strconv.Atoi(count)
		}
		if err != nil || p.Max < 0 {
			return p, fmt.Errorf("%q is no number of tries", count)
		}
	default:
		return p, fmt.Errorf("%q is none of no, on-failure[:N], always, unless-stopped", s)
	}
	return p, nil
}

// None says that the container is never started again.
func (p RestartPolicy) None() bool { return p.Name == "" || p.Name == "no" }

// Delays between an end and the start that follows, as Docker has them.
const (
	firstDelay = 100 * time.Millisecond
	maxDelay   = time.Minute
	// soundLife is how long a container must have run for the next delay to be the first again.
	soundLife = 10 * time.Second
)

// restarts is what has become of a restart policy since somebody started the container.
type restarts struct {
	policy   RestartPolicy
	count    int
	delay    time.Duration
	off      sync.Once
	canceled chan struct{} // closed when somebody has asked for the container's end
}

func newRestarts(p RestartPolicy) *restarts {
	return &restarts{policy: p, canceled: make(chan struct{})}
}

func (r *restarts) cancel() { r.off.Do(func() { close(r.canceled) }) }

// next says whether a container that has ended with this code, after this time, is started again, and after which delay.
func (r *restarts) next(code int, ran time.Duration) (delay time.Duration, again bool) {
	select {
	case <-r.canceled:
		return 0, false
	default:
	}
	switch r.policy.Name {
	case "always", "unless-stopped":
		again = true
	case "on-failure":
		again = code != 0 && (r.policy.Max == 0 || r.count < r.policy.Max)
	}
	if !again {
		return 0, false
	}
	if r.delay == 0 || ran >= soundLife {
		r.delay = firstDelay
	} else {
		r.delay = min(2*r.delay, maxDelay)
	}
	r.count++
	return r.delay, true
}

// stopWish is somebody's wish that the container ends.
type stopWish struct {
	signal int           // 0: the container's own
	grace  time.Duration // until SIGKILL; negative: without end
	own    bool          // the grace is the container's own
	// restart is set where the container is to be booted again. The wish is void once that has begun.
	restart *restartWish
}

func (w stopWish) void() bool {
	if w.restart == nil {
		return false
	}
	select {
	case <-w.restart.begun:
		return true
	default:
		return false
	}
}

// restartWish is somebody's wish that the container ends and is booted again.
type restartWish struct {
	begun chan struct{} // closed when the life before has ended
	done  chan struct{} // closed when err is set
	err   error
}

var errNotRunning = errors.New("the container is not running")
