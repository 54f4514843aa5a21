//go:build e2e

package run

import (
	"bufio"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/runcvm/runcvm/test/harness"
)

// clockBound is the skew that a guest's clock may have.
const clockBound = 100 * time.Millisecond

// TestTheClockIsRightFromTheFirstProcessOn asks the container for the time: between asking and answer lies the host's own,
// so what the guest's is off by beyond that is its skew.
func TestTheClockIsRightFromTheFirstProcessOn(t *testing.T) {
	h := harness.New(t)
	in, ask := io.Pipe()
	cmd, out := start(t, h, in, "run", "--rm", "-i", harness.Image, "sh", "-c", "while read line; do date +%s%N; done")
	answers := bufio.NewReader(out)
	// The second round comes after the clocks have been compared and corrected again.
	for _, wait := range []time.Duration{0, 25 * time.Second} {
		time.Sleep(wait)
		for range 3 {
			if skew := skewOf(t, ask, answers); skew > clockBound {
				t.Errorf("the guest's clock is off by at least %s", skew)
			}
		}
	}
	ask.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
}

// skewOf returns the least that the guest's clock must be off by.
func skewOf(t *testing.T, ask io.Writer, answers *bufio.Reader) time.Duration {
	t.Helper()
	before := time.Now()
	if _, err := io.WriteString(ask, "\n"); err != nil {
		t.Fatal(err)
	}
	line, err := answers.ReadString('\n')
	after := time.Now()
	if err != nil {
		t.Fatal(err)
	}
	var nanos int64
	if _, err := fmt.Sscan(line, &nanos); err != nil {
		t.Fatal(err)
	}
	guest := time.Unix(0, nanos)
	t.Logf("asked and answered within %s, guest %s after the asking", after.Sub(before), guest.Sub(before))
	return max(before.Sub(guest), guest.Sub(after), 0)
}
