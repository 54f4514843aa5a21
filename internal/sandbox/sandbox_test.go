package sandbox

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// told checks that an error names its cause, carries the evidence, and has nothing that a terminal acts on.
func told(t *testing.T, err error, cause string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	text := err.Error()
	if !strings.Contains(text, cause) || strings.ContainsAny(text, "\x1b\r") || len(text) > 3*maxGuestText {
		t.Errorf("an error of %d bytes: %.500q, want %q", len(text), text, cause)
	}
	e := new(EvidenceError)
	if !errors.As(err, &e) || !strings.HasPrefix(e.Console, "console of ") || !strings.HasPrefix(e.VMMLog, "log of ") {
		t.Errorf("no evidence in %q", text)
	}
}

func TestAnHonestGuest(t *testing.T) {
	var stdout, stderr strings.Builder
	s, c := running(t, "honest", Streams{Stdin: io.NopCloser(strings.NewReader("")), Stdout: &stdout, Stderr: &stderr})
	exit, err := c.Wait(t.Context())
	if err != nil || exit.Code != 7 || exit.Err != nil || stdout.String() != "stdout\n" || stderr.String() != "stderr\n" {
		t.Errorf("got %+v, %v, stdout %q, stderr %q", exit, err, stdout.String(), stderr.String())
	}
	if c.State() != Stopped {
		t.Errorf("it is %s", c.State())
	}
	s.Kill()
	s.Kill() // legal twice
}

func TestABootThatFails(t *testing.T) {
	for mode, cause := range map[string]string{
		"silent":        "has not answered within 300ms",
		"closing":       "set the guest up: ttrpc: closed",
		"garbage":       "set the guest up: ",
		"huge":          "exceed maximum message size",
		"setup-refused": "answers Internal",
		vmmDies:         "the VMM ended: exit status 3",
		vmmEnds:         "the guest ended by itself",
		vmmRefuses:      "no such kernel",
	} {
		t.Run(mode, func(t *testing.T) {
			s := launch(t, mode)
			if mode == "silent" {
				s.cfg.BootTimeout = impatience
			}
			told(t, s.Boot(t.Context(), BootFiles{}), cause)
		})
	}
}

func TestABootEndsWithItsContext(t *testing.T) {
	s := launch(t, "silent")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(50*time.Millisecond, func() { cancel(errors.New("interrupted by the test")) })
	told(t, s.Boot(ctx, BootFiles{}), "interrupted by the test")
}

func TestAVMMWithoutAnAPI(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	for name, c := range map[string]struct{ program, cause string }{
		"that ends":    {"/bin/false", "exit status 1"},
		"that is none": {"/nonexistent", "run the VMM /nonexistent"},
	} {
		t.Run(name, func(t *testing.T) {
			s := launchConfig(t, c.program)
			if _, err := Launch(t.Context(), s); err == nil || !strings.Contains(err.Error(), c.cause) {
				t.Errorf("got %v", err)
			}
		})
	}
	t.Run("that is silent", func(t *testing.T) {
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cfg := launchConfig(t, self)
		cfg.ID = "0-" + vmmIsSilent
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		if _, err := Launch(ctx, cfg); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}

func TestAContainerThatCannotBeCreated(t *testing.T) {
	s := launch(t, "create-never")
	if err := s.Boot(t.Context(), BootFiles{}); err != nil {
		t.Fatal(err)
	}
	s.cfg.BootTimeout = impatience
	_, err := s.Create(t.Context(), "c", Disks{})
	told(t, err, "has not mounted the disks within 300ms")
}

func TestAProcessThatCannotBeStarted(t *testing.T) {
	for mode, cause := range map[string]string{
		"deaf":            "has not run the process within 300ms",
		"start-never":     "has not run the process within 300ms",
		"stream-refused":  "the agent refused",
		"stream-garbage":  "stream protocol violation",
		"stream-too-long": "stream protocol violation",
	} {
		t.Run(mode, func(t *testing.T) {
			s, c := created(t, mode)
			if strings.Contains(cause, "within") {
				s.cfg.BootTimeout = impatience
			}
			start := time.Now()
			told(t, c.Start(t.Context(), Streams{Stdout: io.Discard, Stderr: io.Discard}), cause)
			if took := time.Since(start); took > patience/2 {
				t.Errorf("it took %s", took)
			}
			if c.State() != Created {
				t.Errorf("it is %s", c.State())
			}
		})
	}
	t.Run("for a reason of the guest's", func(t *testing.T) {
		_, c := created(t, "start-refused")
		refusal := new(ExecError)
		if err := c.Start(t.Context(), Streams{}); !errors.As(err, &refusal) || refusal.Code != 125 ||
			len(refusal.Message) > maxGuestText || strings.ContainsAny(refusal.Message, "\x1b\r\n") {
			t.Errorf("got %.500q", err)
		}
	})
}

func TestWhatAGuestSaysOfItselfIsBounded(t *testing.T) {
	s, _ := created(t, "lies")
	if r := s.KernelRelease(); len(r) > maxRelease || strings.ContainsAny(r, "\x1b\r\n") || r == "" {
		t.Errorf("the kernel's release is %.200q", r)
	}
}

func TestAnEndOtherThanTheProcesssOwn(t *testing.T) {
	for mode, want := range map[string]struct {
		code   int
		cause  string
		output string
	}{
		"early":        {0, "stdout was cut short", ""},
		"endless":      {0, "stdout was cut short: receive: read unix", ""},
		"long-frames":  {0, "stream protocol violation", ""},
		"lies":         {125, "an exit code that there is not, 4000000000", "stdout\n"},
		"wait-refused": {137, "the guest's agent is gone", "stdout\n"},
	} {
		t.Run(mode, func(t *testing.T) {
			var stdout strings.Builder
			_, c := running(t, mode, Streams{Stdout: &stdout})
			exit, err := c.Wait(t.Context())
			if err != nil || exit.Code != want.code || exit.Err == nil || !strings.Contains(exit.Err.Error(), want.cause) ||
				!strings.HasPrefix(want.output, stdout.String()) {
				t.Errorf("got %+v, %v, stdout %q", exit, err, stdout.String())
			}
			if c.State() != Stopped {
				t.Errorf("it is %s", c.State())
			}
		})
	}
}

func TestAGuestThatDoesNotEndIsKilled(t *testing.T) {
	s, c := running(t, "disobedient", Streams{Stdout: io.Discard})
	if err := c.Signal(t.Context(), 9); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(50*time.Millisecond, s.Kill)
	exit, err := c.Wait(t.Context())
	if err != nil || exit.Code != 137 {
		t.Errorf("got %+v, %v", exit, err)
	}
	told(t, exit.Err, "the VMM ended: signal: killed")
}

func TestASignalThatIsNotTaken(t *testing.T) {
	_, c := running(t, "signal-never", Streams{Stdout: io.Discard})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := c.Signal(ctx, 15); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestTheEndOfItsContextEndsAWait(t *testing.T) {
	_, c := running(t, "disobedient", Streams{Stdout: io.Discard})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

// writer fails, or blocks where its error is nil.
type writer struct{ err error }

func (w writer) Write([]byte) (int, error) {
	if w.err == nil {
		select {}
	}
	return 0, w.err
}

func TestAReaderOfTheOutputThatIsGone(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		told bool
	}{
		"as readers of a pipe go": {unix.EPIPE, false},
		"for want of room":        {unix.ENOSPC, true},
	} {
		t.Run(name, func(t *testing.T) {
			_, ct := running(t, "honest", Streams{Stdout: writer{c.err}, Stderr: io.Discard})
			exit, err := ct.Wait(t.Context())
			if err != nil || exit.Code != 7 || (exit.Err != nil) != c.told || c.told && !errors.Is(exit.Err, c.err) {
				t.Errorf("got %+v, %v", exit, err)
			}
		})
	}
}

func TestAReaderThatTakesNothingCanBeAbandoned(t *testing.T) {
	_, c := running(t, "honest", Streams{Stdout: writer{}})
	time.AfterFunc(50*time.Millisecond, c.Abandon)
	exit, err := c.Wait(t.Context())
	if err != nil || exit.Err == nil {
		t.Errorf("got %+v, %v", exit, err)
	}
}

func TestCallsOutOfOrderAreErrors(t *testing.T) {
	_, c := created(t, "honest")
	if err := c.Signal(t.Context(), 15); !errors.Is(err, ErrTransition) {
		t.Errorf("a signal before the start: %v", err)
	}
	if err := c.Start(t.Context(), Streams{}); err != nil {
		t.Fatal(err)
	}
	if err := c.Start(t.Context(), Streams{}); !errors.Is(err, ErrTransition) {
		t.Errorf("a second start: %v", err)
	}
	if _, err := c.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Signal(t.Context(), 15); !errors.Is(err, ErrTransition) {
		t.Errorf("a signal after the end: %v", err)
	}
	if err := c.Start(t.Context(), Streams{}); !errors.Is(err, ErrTransition) {
		t.Errorf("a start after the end: %v", err)
	}
}

func TestTheStatesThatMayFollow(t *testing.T) {
	all := []State{Creating, Created, Running, Paused, Stopped}
	legal := map[[2]State]bool{
		{Creating, Created}: true, {Creating, Stopped}: true,
		{Created, Running}: true, {Created, Stopped}: true,
		{Running, Paused}: true, {Running, Stopped}: true,
		{Paused, Running}: true, {Paused, Stopped}: true,
	}
	for _, from := range all {
		for _, to := range all {
			err := from.to(to)
			if legal[[2]State{from, to}] != (err == nil) || err != nil && !errors.Is(err, ErrTransition) {
				t.Errorf("from %s to %s: %v", from, to, err)
			}
		}
	}
}

func TestAnIdBecomesAVMMs(t *testing.T) {
	for id, want := range map[string]string{
		"abc-1": "abc-1", "a.b_c": "a-b-c", strings.Repeat("x", 128): strings.Repeat("x", 64), "é": "--",
	} {
		if got := vmID(id); got != want {
			t.Errorf("%q becomes %q, want %q", id, got, want)
		}
	}
}
