package sandbox

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestWhatAGuestTellsOfItsProcessesIsBounded(t *testing.T) {
	_, c := running(t, "disobedient", Streams{Stdout: io.Discard, Stderr: io.Discard})
	list, total, err := c.Processes(t.Context())
	if err != nil || len(list) != maxProcesses || total != maxProcesses {
		t.Fatalf("%d of %d processes, %v", len(list), total, err)
	}
	p := list[0]
	if len(p.Args) > maxArgCount {
		t.Errorf("%d arguments", len(p.Args))
	}
	if n := len(strings.Join(p.Args, " ")); n > maxArgs {
		t.Errorf("arguments of %d bytes", n)
	}
	for _, text := range append([]string{p.User, p.Group, p.State, p.Tty, p.Name}, p.Args...) {
		if strings.ContainsAny(text, "\x1b\r\n") || len(text) > maxArgs {
			t.Errorf("a text of %d bytes: %.100q", len(text), text)
		}
	}
	for _, text := range []string{p.User, p.Group, p.State, p.Tty, p.Name} {
		if len(text) > maxWord {
			t.Errorf("a word of %d bytes", len(text))
		}
	}
	if u, err := c.Usage(t.Context()); err != nil || u.GetCpuUsec() == 0 {
		t.Errorf("usage %v, %v", u, err)
	}
}

func TestAContainerIsPausedAndResumedOnce(t *testing.T) {
	_, c := running(t, "disobedient", Streams{Stdout: io.Discard, Stderr: io.Discard})
	if err := c.Resume(t.Context()); !errors.Is(err, ErrTransition) {
		t.Errorf("resume of one that runs: %v", err)
	}
	if err := c.Pause(t.Context()); err != nil || c.State() != Paused {
		t.Fatalf("pause: %v, it is %s", err, c.State())
	}
	if err := c.Pause(t.Context()); !errors.Is(err, ErrTransition) {
		t.Errorf("pause of one that is paused: %v", err)
	}
	if err := c.Resume(t.Context()); err != nil || c.State() != Running {
		t.Errorf("resume: %v, it is %s", err, c.State())
	}
}

func TestAGuestThatDoesNotAnswerHoldsNobodyUp(t *testing.T) {
	_, c := running(t, "signal-never", Streams{Stdout: io.Discard, Stderr: io.Discard})
	for name, call := range map[string]func(context.Context) error{
		"pause":     c.Pause,
		"usage":     func(ctx context.Context) error { _, err := c.Usage(ctx); return err },
		"processes": func(ctx context.Context) error { _, _, err := c.Processes(ctx); return err },
	} {
		ctx, cancel := context.WithTimeout(t.Context(), impatience)
		if err := call(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", name, err)
		}
		cancel()
	}
	if c.State() != Running {
		t.Errorf("it is %s", c.State())
	}
}
