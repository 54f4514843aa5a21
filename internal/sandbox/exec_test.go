package sandbox

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"
)

// exec runs a further process in a container whose agent is of this mode, with its output going to stdout.
func exec(t *testing.T, mode string, stdout io.Writer) (*Sandbox, *Process, *Stdio) {
	t.Helper()
	s, c := running(t, mode, Streams{})
	p, err := c.Exec(t.Context(), ExecConfig{ID: "e", Process: []byte("{}"), Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	stdio := newStdio(s.cfg.Vsock, "c", "e", slog.New(slog.DiscardHandler))
	stdio.silence = s.drainTimeout
	if err := stdio.open(t.Context(), Streams{Stdout: stdout}); err != nil {
		t.Fatal(err)
	}
	return s, p, stdio
}

func TestAFurtherProcess(t *testing.T) {
	var stdout strings.Builder
	_, p, stdio := exec(t, "runs", &stdout)
	exit, err := p.Wait(t.Context())
	stdio.End()
	<-stdio.Drained()
	if err != nil || exit.Code != 9 || exit.Err != nil || stdout.String() != "stdout\n" || stdio.Err() != nil {
		t.Errorf("got %+v, %v, stdout %q, %v", exit, err, stdout.String(), stdio.Err())
	}
	if err := errors.Join(p.Signal(t.Context(), 15), p.Resize(t.Context(), Size{24, 80})); err != nil {
		t.Error(err)
	}
}

func TestAFurtherProcessThatCannotBeRun(t *testing.T) {
	for mode, cause := range map[string]string{
		"exec-never":  "has not run the process within 300ms",
		"exec-failed": "answers Internal",
	} {
		t.Run(mode, func(t *testing.T) {
			s, c := running(t, mode, Streams{})
			if mode == "exec-never" {
				s.cfg.BootTimeout = impatience
			}
			_, err := c.Exec(t.Context(), ExecConfig{ID: "e"})
			if err == nil || !strings.Contains(err.Error(), cause) || len(err.Error()) > 2*maxGuestText || strings.ContainsAny(err.Error(), "\x1b\r") {
				t.Errorf("got %.500q", err)
			}
		})
	}
	t.Run("for a reason of the guest's", func(t *testing.T) {
		_, c := running(t, "exec-refused", Streams{})
		refusal := new(ExecError)
		if _, err := c.Exec(t.Context(), ExecConfig{ID: "e"}); !errors.As(err, &refusal) || refusal.Code != 125 ||
			len(refusal.Message) > maxGuestText || strings.ContainsAny(refusal.Message, "\x1b\r\n") {
			t.Errorf("got %.500q", err)
		}
	})
	t.Run("in a container that does not run", func(t *testing.T) {
		_, c := created(t, "runs")
		if _, err := c.Exec(t.Context(), ExecConfig{ID: "e"}); !errors.Is(err, ErrTransition) {
			t.Errorf("got %v", err)
		}
		if err := c.Resize(t.Context(), Size{24, 80}); !errors.Is(err, ErrTransition) {
			t.Errorf("got %v", err)
		}
	})
}

func TestLiesOfAFurtherProcess(t *testing.T) {
	for mode, want := range map[string]struct {
		code          int
		cause, output string
	}{
		"exec-lies":         {125, "an exit code that there is not, 4000000000", "the process's stdout was cut short"},
		"exec-garbage":      {0, "", "stream protocol violation"},
		"exec-wait-refused": {137, "the guest's agent is gone", ""},
	} {
		t.Run(mode, func(t *testing.T) {
			_, p, stdio := exec(t, mode, io.Discard)
			exit, err := p.Wait(t.Context())
			stdio.End()
			<-stdio.Drained()
			if err != nil || exit.Code != want.code || (exit.Err == nil) != (want.cause == "") ||
				exit.Err != nil && !strings.Contains(exit.Err.Error(), want.cause) {
				t.Errorf("got %+v, %v", exit, err)
			}
			if want.output != "" && (stdio.Err() == nil || !strings.Contains(stdio.Err().Error(), want.output)) {
				t.Errorf("of the output: %v", stdio.Err())
			}
		})
	}
}

func TestAResizeThatIsNotAnswered(t *testing.T) {
	_, c := running(t, "exec-never", Streams{})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := c.Resize(ctx, Size{24, 80}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestWhoLeavesAProcessDoesNotWaitForItsOutput(t *testing.T) {
	_, _, stdio := exec(t, "exec-lies", io.Discard)
	conn := stdio.outputs[0]
	time.AfterFunc(50*time.Millisecond, func() { conn.Close() }) // the agent of this mode does not
	stdio.Leave()
	select {
	case <-stdio.Drained():
	case <-time.After(patience):
		t.Error("it is not left")
	}
}

func TestSizesOfTerminals(t *testing.T) {
	if s, err := NewSize(24, 80); err != nil || s != (Size{24, 80}) || s.message().GetRows() != 24 || s.message().GetColumns() != 80 {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := NewSize(24, 1<<16); err == nil {
		t.Error("a size that there is not")
	}
	if (Size{}).message() != nil {
		t.Error("no size is one")
	}
}
