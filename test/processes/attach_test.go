//go:build e2e

package processes

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/runcvm/runcvm/test/harness"
)

// attached is a client with pipes.
type attached struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
	err strings.Builder
}

func attach(t *testing.T, h *harness.Host, args ...string) *attached {
	t.Helper()
	a := &attached{t: t, cmd: h.Command(append([]string{"attach"}, args...)...)}
	var err1, err2 error
	a.in, err1 = a.cmd.StdinPipe()
	out, err2 := a.cmd.StdoutPipe()
	a.out, a.cmd.Stderr = bufio.NewReader(out), &a.err
	if err := errors.Join(err1, err2, a.cmd.Start()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.cmd.Process.Kill() })
	return a
}

func (a *attached) say(line string) {
	a.t.Helper()
	if _, err := io.WriteString(a.in, line+"\n"); err != nil {
		a.t.Fatal(err)
	}
}

func (a *attached) expect(line string) {
	a.t.Helper()
	got, err := a.out.ReadString('\n')
	if got != line+"\n" {
		a.t.Fatalf("got %q, %v, want %q; stderr %q", got, err, line, a.err.String())
	}
}

// end returns the client's exit code.
func (a *attached) end() int {
	a.t.Helper()
	rest, _ := io.ReadAll(a.out)
	_ = a.cmd.Wait()
	if len(rest) > 0 {
		a.t.Errorf("there is more output: %q", rest)
	}
	return a.cmd.ProcessState.ExitCode()
}

// TestAttach is about a container without a terminal. Its program greets who says a word, so that a client knows that it is attached.
func TestAttach(t *testing.T) {
	const program = `trap 'echo signal' USR1
		while :; do
			if read word; then
				case $word in end) echo bye; echo oops >&2; exit 23;; *) echo "got $word";; esac
			fi
		done`
	h := container(t, "-i", "--name", "c", harness.ToolsImage, "bash", "-c", program)
	first := attach(t, h, "c")
	first.say("one")
	first.expect("got one")
	second := attach(t, h, "c")
	second.say("two")
	second.expect("got two")
	first.expect("got two")
	// The end of a client's input, and of the client, is not the container's.
	listener := attach(t, h, "--no-stdin", "c")
	listener.say("nobody hears this")
	if err := second.in.Close(); err != nil {
		t.Fatal(err)
	}
	first.say("three")
	for _, a := range []*attached{first, second} {
		a.expect("got three")
	}
	if err := second.cmd.Process.Signal(syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	first.expect("signal")
	second.expect("signal")
	if err := second.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = second.cmd.Wait()
	// Without the proxy, a signal is the client's own.
	third := attach(t, h, "--sig-proxy=false", "c")
	third.say("four")
	third.expect("got four")
	first.expect("got four")
	if err := third.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := third.end(); code != 143 {
		t.Errorf("the client without proxy ended with %d: %s", code, third.err.String())
	}
	first.say("end")
	first.expect("bye")
	if code := first.end(); code != 23 || first.err.String() != "oops\n" {
		t.Errorf("exit code %d, stderr %q", code, first.err.String())
	}
	rest, _ := io.ReadAll(listener.out)
	if _ = listener.cmd.Wait(); !strings.HasSuffix(string(rest), "got four\nbye\n") || listener.cmd.ProcessState.ExitCode() != 23 {
		t.Errorf("the listener got %q, exit code %d", rest, listener.cmd.ProcessState.ExitCode())
	}
	h.AwaitState("c", "stopped")
	if r := h.Run("logs", "c"); r.Stdout != "got one\ngot two\ngot three\nsignal\ngot four\nbye\n" || r.Stderr != "oops\n" {
		t.Errorf("the log has %+v", r)
	}
	for verb, want := range map[string]string{
		"attach c":    "runcvm: you cannot attach to a stopped container, start it first\n",
		"exec c true": "runcvm: container c is not running\n",
	} {
		if r := h.Run(strings.Fields(verb)...); r.Code != 1 || r.Stderr != want {
			t.Errorf("%s: %+v", verb, r)
		}
	}
	h.MustRun("rm", "c")
}

// TestAttachToAForegroundContainer has its caller at one end and another client at the other.
func TestAttachToAForegroundContainer(t *testing.T) {
	h := harness.New(t)
	in, w := io.Pipe()
	cmd := h.Command("run", "--rm", "-i", "--name", "c", harness.Image, "sh", "-c", `while read word; do echo "got $word"; done; echo end; exit 3`)
	cmd.Stdin = in
	out, err := cmd.StdoutPipe()
	if err := errors.Join(err, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(out)
	expect := func(want string) {
		t.Helper()
		if got, err := r.ReadString('\n'); got != want+"\n" {
			t.Fatalf("got %q, %v, want %q", got, err, want)
		}
	}
	fmt.Fprintln(w, "caller")
	expect("got caller")
	a := attach(t, h, "c")
	a.say("client")
	a.expect("got client")
	expect("got client")
	w.Close()
	a.expect("end")
	expect("end")
	if code := a.end(); code != 3 {
		t.Errorf("the client's exit code is %d: %s", code, a.err.String())
	}
	if exit := new(exec.ExitError); !errors.As(cmd.Wait(), &exit) || exit.ExitCode() != 3 {
		t.Errorf("the caller's end is %v", cmd.ProcessState)
	}
}
