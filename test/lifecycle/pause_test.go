//go:build e2e

package lifecycle

import (
	"bufio"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/runcvm/runcvm/test/harness"
)

// pauseLength is how long a container stands still.
const pauseLength = time.Minute

// TestAContainerIsPausedForAMinute does something else meanwhile.
func TestAContainerIsPausedForAMinute(t *testing.T) {
	h := harness.New(t)
	cmd := h.Command("run", "-i", "--name", "frozen", harness.Image, "sh", "-c",
		"(while :; do echo tick >>/ticks; sleep 0.1; done) & while read line; do echo \"got $line\"; done; kill $!; exit 7")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // a test that failed
		_ = cmd.Wait()
	})
	out := bufio.NewReader(stdout)
	say := func(line string) {
		t.Helper()
		if _, err := io.WriteString(stdin, line+"\n"); err != nil {
			t.Fatal(err)
		}
	}
	hear := func(want string) {
		t.Helper()
		if got, err := out.ReadString('\n'); err != nil || got != "got "+want+"\n" {
			t.Fatalf("got %q, %v, want %q", got, err, want)
		}
	}
	say("one")
	hear("one")
	prints(t, h, "frozen", "pause", "frozen")
	paused := time.Now()
	say("two")
	fails(t, h, "already paused", "pause", "frozen")
	fails(t, h, "is paused", "exec", "frozen", "true")
	fails(t, h, "try unpause instead", "start", "frozen")
	if c := inspect(t, h, "frozen"); c.State.Status != "paused" || !c.State.Running || !c.State.Paused {
		t.Errorf("paused: %+v", c.State)
	}
	if ps := h.MustRun("ps", "--filter", "status=paused", "--format", "{{.Names}} {{.Status}}"); !strings.HasPrefix(ps, "frozen Up ") ||
		!strings.HasSuffix(ps, "(Paused)\n") {
		t.Errorf("ps: %q", ps)
	}
	// The guest itself goes on, and answers; nothing of the container's runs.
	cpu := func() string { return h.MustRun("top", "frozen", "-o", "pid,cputimes,args") }
	before := cpu()

	restartPolicies(t, h)

	if after := cpu(); after != before {
		t.Errorf("a paused container's processes went on:\n%s\n%s", before, after)
	}
	time.Sleep(time.Until(paused.Add(pauseLength)))
	prints(t, h, "frozen", "unpause", "frozen")
	fails(t, h, "is not paused", "unpause", "frozen")
	hear("two")
	say("three")
	hear("three")
	clockIsRight(t, h, "frozen")
	harness.Eventually(t, harness.Patience, func() error {
		if len(h.MustRun("exec", "frozen", "tail", "-n", "1", "/ticks")) == 0 {
			return fmt.Errorf("no tick")
		}
		return nil
	})
	// A signal wakes what it is to end.
	prints(t, h, "frozen", "pause", "frozen")
	prints(t, h, "frozen", "kill", "frozen")
	if _, err := io.Copy(io.Discard, out); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() != 137 {
		t.Errorf("it ended with %v", err)
	}
	got := strings.Join(actions(t, h, "frozen"), " ")
	// SIGKILL may have ended it before it can be woken.
	if ends := regexp.MustCompile(`^create start pause unpause .*pause kill=9( unpause die=137| die=137( unpause)?)$`); !ends.MatchString(got) {
		t.Errorf("events: %s", got)
	}
	h.MustRun("rm", "frozen")
}

// clockIsRight compares the guest's clock with the host's, as exactly as an exec lets it.
func clockIsRight(t *testing.T, h *harness.Host, name string) {
	t.Helper()
	before := time.Now()
	out := strings.TrimSpace(h.MustRun("exec", name, "date", "+%s.%N"))
	after := time.Now()
	seconds, err := strconv.ParseFloat(out, 64)
	if err != nil {
		t.Fatal(err)
	}
	const near = 500 * time.Millisecond
	if got := time.Unix(0, int64(seconds*1e9)); got.Before(before.Add(-near)) || got.After(after.Add(near)) {
		t.Errorf("the guest's clock shows %s, between %s and %s", got, before, after)
	}
}
