package monitor

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"

	"github.com/runcvm/runcvm/internal/container"
	"github.com/runcvm/runcvm/internal/monitor/api"
)

func TestRestartPoliciesAreDockers(t *testing.T) {
	for s, want := range map[string]RestartPolicy{
		"no": {Name: "no"}, "always": {Name: "always"}, "unless-stopped": {Name: "unless-stopped"},
		"on-failure": {Name: "on-failure"}, "on-failure:5": {Name: "on-failure", Max: 5}, "on-failure:0": {Name: "on-failure"},
	} {
		if got, err := ParseRestartPolicy(s); err != nil || got != want {
			t.Errorf("%s is %+v, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "never", "always:3", "on-failure:", "on-failure:-1", "on-failure:x"} {
		if got, err := ParseRestartPolicy(s); err == nil {
			t.Errorf("%q is %+v", s, got)
		}
	}
}

func TestTheDelayDoublesUntilALifeWasSound(t *testing.T) {
	r := newRestarts(RestartPolicy{Name: "always"})
	var last time.Duration
	for i := range 15 {
		delay, again := r.next(0, time.Second)
		want := max(min(2*last, maxDelay), firstDelay)
		if !again || delay != want || r.count != i+1 {
			t.Fatalf("start %d after %s, want %s", r.count, delay, want)
		}
		last = delay
	}
	if last != maxDelay {
		t.Errorf("the longest delay is %s", last)
	}
	if delay, _ := r.next(1, soundLife); delay != firstDelay {
		t.Errorf("after a sound life the delay is %s", delay)
	}
	r.cancel()
	r.cancel()
	if _, again := r.next(0, 0); again {
		t.Error("it is started although somebody has ended it")
	}
}

func TestOnFailureCountsFailuresOnly(t *testing.T) {
	r := newRestarts(RestartPolicy{Name: "on-failure", Max: 2})
	if _, again := r.next(0, 0); again {
		t.Error("a success is started again")
	}
	for i := range 3 {
		if _, again := r.next(1, 0); again != (i < 2) {
			t.Errorf("failure %d: %t", i+1, again)
		}
	}
	if _, again := newRestarts(RestartPolicy{}).next(1, 0); again {
		t.Error("without a policy it is started again")
	}
}

func TestARestartThatFailsIsToldWithItsReason(t *testing.T) {
	reason := errors.New("the image is gone")
	over := make(chan struct{})
	close(over)
	w := &restartWish{done: make(chan struct{})}
	if err := w.await(t.Context(), over); !errors.Is(err, errNotRunning) {
		t.Errorf("a container that was removed: %v", err)
	}
	w.err = reason
	close(w.done)
	for range 100 {
		if err := w.await(t.Context(), over); !errors.Is(err, reason) {
			t.Fatalf("got %v", err)
		}
	}
}

func TestAnEnginesContainerIsNotRestarted(t *testing.T) {
	s := &controlServer{m: &monitor{req: Request{Name: "web", Bundle: &container.Bundle{ID: "0123"}}}}
	_, err := s.Restart(t.Context(), &api.RestartRequest{})
	if !errdefs.IsFailedPrecondition(errgrpc.ToNative(err)) || !strings.Contains(err.Error(), "start and restart 0123 by that") {
		t.Errorf("%v", err)
	}
}
