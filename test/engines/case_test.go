//go:build e2e

package engines

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/creack/pty"

	"github.com/runcvm/runcvm/test/engines/engine"
	"github.com/runcvm/runcvm/test/harness"
)

// testCase is a row of the table: steps with containers of its own.
type testCase struct {
	name  string
	steps []step
	// kinds are the engines that have this; all where it is empty.
	kinds []engine.Kind
}

// step is one command and what it must do.
type step struct {
	// name tells it in the table of differences; the first step's is "run".
	name string
	// run is a command line of the engine; words in single quotes are one argument. @ is the name of the case's container, IMAGE is
	// the busybox image.
	run string
	// host is a shell's text for the engine's host, in which ENGINE is the engine's command, and outside for its neighbour, in place of run.
	host, outside string
	// input is given as standard input; tty runs the command at a terminal, at which input is typed.
	input string
	tty   bool
	// code is the exit code that is wanted, out and err the output, in which * stands for anything. What is empty is not compared.
	code     int
	anyCode  bool
	out, err string
	// until repeats the command until everything is as wanted.
	until bool
	// kinds are the engines that have this; all where it is empty.
	kinds []engine.Kind
}

// nothing is a step's output that must be empty.
const nothing = "(nothing)"

var (
	dockers    = []engine.Kind{engine.DebianDocker, engine.CurrentDocker}
	onlyPodman = []engine.Kind{engine.Podman}
)

// runtimes are those under which the table is run.
var runtimes = []string{engine.Runc, engine.RunCVM}

func runCase(t *testing.T, e *engine.Engine, runtime string, c testCase, l table) {
	if len(c.kinds) > 0 && !slices.Contains(c.kinds, e.Kind) {
		return
	}
	e = e.For(t)
	container := c.name + "-" + runtime
	n := fmt.Sprint(serial.Add(1))
	expand := strings.NewReplacer("@", container, "IMAGE", engine.Busybox, "ENGINE", e.Shell(), "UDPECHO", harness.Program(t, "udpecho"), "SUBNET4", "10.77."+n+".0/24", "SUBNET6", "fd00:77:0:"+n+"::/64",
		"PORT1", "2"+fmt.Sprintf("%04s", n), "PORT2", "1"+fmt.Sprintf("%04s", n)).Replace
	t.Cleanup(func() {
		for _, name := range []string{container, container + "-b"} {
			if t.Failed() {
				t.Logf("%s: %.4000s", name, e.Run("inspect", "-f", "{{json .State}}", name).Stdout)
			}
			e.Run("rm", "-f", "-v", name)
		}
		e.Run("network", "rm", container) // where the case has made one
	})
	l.ran(c.name, e.Kind, runtime)
	for i, s := range c.steps {
		if len(s.kinds) > 0 && !slices.Contains(s.kinds, e.Kind) {
			continue
		}
		s.run, s.host, s.outside, s.out, s.err = expand(s.run), expand(s.host), expand(s.outside), expand(s.out), expand(s.err)
		if s.name == "" {
			s.name = "run"
		}
		if !runStep(t, e, runtime, c.name, i, s, l) {
			return
		}
	}
}

// serial numbers the cases that are run: each has ports and subnets of its own.
var serial atomic.Int32

// runStep says whether the case may go on.
func runStep(t *testing.T, e *engine.Engine, runtime, name string, i int, s step, l table) bool {
	deadline := time.Now().Add(harness.Patience)
	began := time.Now()
	for {
		r := s.result(t, e, runtime)
		found := s.compare(r)
		if len(found) > 0 && s.until && time.Now().Before(deadline) && !l.explained(name, s.name, e.Kind, runtime, found) {
			time.Sleep(100 * time.Millisecond)
			continue
		}
		for _, f := range found {
			if !l.explains(name, s.name, e.Kind, runtime, f) {
				t.Errorf("step %d, %s: %s\n\twant %s\n\tgot  %s\nexit code %d\nstdout: %.2000s\nstderr: %.4000s", i+1, s.name, f.what, f.want, f.got, r.Code, r.Stdout, r.Stderr)
			}
		}
		t.Logf("%5.1fs %s", time.Since(began).Seconds(), s.name)
		return !t.Failed()
	}
}

func (s step) result(t *testing.T, e *engine.Engine, runtime string) engine.Result {
	t.Helper()
	switch {
	case s.host != "":
		return e.Host.RunInput(strings.NewReader(s.input), "sh", "-c", s.host)
	case s.outside != "":
		return e.Host.RunInput(strings.NewReader(s.input), "ip", "netns", "exec", "outside", "sh", "-c", s.outside)
	}
	args := words(s.run)
	args = e.WithRuntime(runtime, args...)
	if s.tty {
		return atTerminal(t, e, s.input, args)
	}
	return e.RunInput(strings.NewReader(s.input), args...)
}

// atTerminal runs a command of the engine at a terminal of 33 rows and 99 columns, and types the input once something was written.
func atTerminal(t *testing.T, e *engine.Engine, input string, args []string) engine.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), harness.Patience)
	defer cancel()
	cmd := e.Command(ctx, args...)
	cmd.SysProcAttr = nil // the terminal's session is a process group of its own
	master, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 33, Cols: 99})
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	var out bytes.Buffer
	b := make([]byte, 4096)
	for typed := input == ""; ; {
		n, err := master.Read(b)
		out.Write(b[:n])
		if !typed && n > 0 {
			typed = true
			if _, err := io.WriteString(master, input); err != nil {
				t.Fatal(err)
			}
		}
		if err != nil {
			break // EIO when the last one at the other end has gone
		}
	}
	_ = cmd.Wait()
	if ctx.Err() != nil {
		t.Errorf("%s has not ended in time; the terminal has %.4000q", strings.Join(args, " "), out.String())
	}
	return engine.Result{Stdout: strings.ReplaceAll(out.String(), "\r\n", "\n"), Code: cmd.ProcessState.ExitCode()}
}

// finding is one thing that is not as wanted.
type finding struct{ what, want, got string }

func (s step) compare(r engine.Result) []finding {
	var found []finding
	check := func(what, want, got string) {
		got = strings.TrimSuffix(got, "\n")
		if want == nothing {
			want = ""
		} else if want == "" {
			return
		}
		if !matches(want, got) {
			found = append(found, finding{what, want, got})
		}
	}
	if !s.anyCode {
		check("exit code", fmt.Sprint(s.code), fmt.Sprint(r.Code))
	}
	check("stdout", s.out, r.Stdout)
	check("stderr", s.err, r.Stderr)
	return found
}

// words splits a command line at spaces; single quotes keep them.
func words(line string) []string {
	var all []string
	for i, part := range strings.Split(line, "'") {
		if i%2 == 1 {
			all = append(all, part)
		} else {
			all = append(all, strings.Fields(part)...)
		}
	}
	return all
}
