//go:build e2e

package run

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/runcvm/runcvm/test/harness"
)

func TestStreamsAndExitCodeAreTheCommandsOwn(t *testing.T) {
	h := harness.New(t)
	r := h.Run("run", "--rm", harness.Image, "sh", "-c", "echo out; echo err >&2; exit 7")
	if r.Stdout != "out\n" || r.Stderr != "err\n" || r.Code != 7 {
		t.Errorf("stdout %q, stderr %q, exit code %d", r.Stdout, r.Stderr, r.Code)
	}
}

// lines is what "seq 1000001 TO" prints with TO = 1000000+n: n lines of 8 bytes.
func lines(n int) []byte {
	b := make([]byte, 0, 8*n)
	for i := range n {
		b = fmt.Appendf(b, "%d\n", 1_000_001+i)
	}
	return b
}

func sum(b []byte) string { return fmt.Sprintf("%x", sha256.Sum256(b)) }

// start runs a container with its output going to the returned pipe.
func start(t *testing.T, h *harness.Host, stdin io.Reader, args ...string) (*exec.Cmd, io.ReadCloser) {
	t.Helper()
	cmd := h.Command(args...)
	cmd.Stdin, cmd.Stderr = stdin, os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	return cmd, out
}

// hashOf runs a container and returns the digest and length of its output.
func hashOf(t *testing.T, h *harness.Host, stdin io.Reader, args ...string) (string, int64) {
	t.Helper()
	cmd, out := start(t, h, stdin, args...)
	s := sha256.New()
	n, err := io.Copy(s, out)
	if err := errors.Join(err, cmd.Wait()); err != nil {
		t.Fatal(err)
	}
	return hex(s), n
}

func hex(s hash.Hash) string { return fmt.Sprintf("%x", s.Sum(nil)) }

func TestAllOutputArrivesThoughTheCommandExitsAtOnce(t *testing.T) {
	for _, c := range []struct{ lines, runs int }{{6_250_000, 5}, {125_000, 20}} {
		want := sum(lines(c.lines))
		for i := range c.runs {
			t.Run(fmt.Sprintf("%d bytes, run %d", 8*c.lines, i+1), func(t *testing.T) {
				h := harness.New(t)
				got, n := hashOf(t, h, nil, "run", "--rm", harness.Image, "seq", "1000001", fmt.Sprint(1_000_000+c.lines))
				if got != want {
					t.Errorf("%d bytes with another digest", n)
				}
			})
		}
	}
}

func TestStandardInputArrivesWhole(t *testing.T) {
	in := lines(6_250_000)
	h := harness.New(t)
	if got, n := hashOf(t, h, bytes.NewReader(in), "run", "--rm", "-i", harness.Image, "cat"); got != sum(in) {
		t.Errorf("%d bytes with another digest came back of %d", n, len(in))
	}
}

func TestTheEndOfStandardInputArrives(t *testing.T) {
	h := harness.New(t)
	r := h.RunInput(bytes.NewReader([]byte("c\na\nb\n")), "run", "--rm", "-i", harness.Image, "sort")
	if r.Stdout != "a\nb\nc\n" || r.Code != 0 {
		t.Errorf("stdout %q, stderr %q, exit code %d", r.Stdout, r.Stderr, r.Code)
	}
}

func TestWithoutInteractiveStandardInputIsEmpty(t *testing.T) {
	h := harness.New(t)
	r := h.RunInput(bytes.NewReader([]byte("not for the container")), "run", "--rm", harness.Image, "cat")
	if r.Stdout != "" || r.Code != 0 {
		t.Errorf("stdout %q, exit code %d", r.Stdout, r.Code)
	}
}

// TestAReaderThatStallsLosesNothing stalls for longer than the time in which Firecracker drops what a closed connection
// has left, and than any of our own deadlines for a stream could be mistaken for.
func TestAReaderThatStallsLosesNothing(t *testing.T) {
	const stall, last = 10 * time.Second, 64 << 10
	want := lines(125_000)
	h := harness.New(t)
	cmd, out := start(t, h, nil, "run", "--rm", harness.Image, "seq", "1000001", "1125000")
	got := make([]byte, len(want)-last, len(want)+1)
	if _, err := io.ReadFull(out, got); err != nil {
		t.Fatal(err)
	}
	time.Sleep(stall)
	rest, err := io.ReadAll(out)
	if err := errors.Join(err, cmd.Wait()); err != nil {
		t.Fatal(err)
	}
	if sum(append(got, rest...)) != sum(want) {
		t.Errorf("%d bytes after the stall, want %d", len(rest), last)
	}
}

func TestAReaderThatLeavesEndsTheWriterBySIGPIPE(t *testing.T) {
	h := harness.New(t)
	// The writer is a child of the container's first process: that one would get an error in place of the signal, as pid 1 does.
	cmd, out := start(t, h, nil, "run", "--rm", harness.Image, "sh", "-c", "seq 1000001 99000000; exit $?")
	if _, err := io.ReadFull(out, make([]byte, 8)); err != nil {
		t.Fatal(err)
	}
	out.Close()
	err := cmd.Wait()
	if exit := new(exec.ExitError); !errors.As(err, &exit) || exit.ExitCode() != 141 {
		t.Errorf("got %v, want exit status 141 (128 + SIGPIPE)", err)
	}
}
