package runtimetools

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// verb is a command line, in which ID is the container, and what it must do under RunCVM and under runc alike.
type verb struct {
	line string // words in single quotes are one
	code int
	// out and err are patterns of path.Match, in which * stands for all but a slash; for what is written to the two, white space as one blank.
	// An empty out is nothing, an empty err is not compared.
	out, err string
}

// runc is the control, with a root of its own for what it knows of containers.
func runc(t *testing.T) string {
	program := filepath.Join(env(t, "RUNCVM_BIN"), "test/engines/runc")
	if _, err := os.Stat(program); err != nil {
		t.Fatalf("%v: run this by make test-runtime-tools", err)
	}
	script := filepath.Join(t.TempDir(), "runc")
	text := fmt.Sprintf("#!/bin/sh\nexec '%s' --root '%s' \"$@\"\n", program, t.TempDir())
	if err := os.WriteFile(script, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	return script
}

// each calls a test with RunCVM and with runc.
func each(t *testing.T, f func(t *testing.T, rt string, control bool)) {
	t.Run("runcvm", func(t *testing.T) { f(t, runtime(t), false) })
	t.Run("runc", func(t *testing.T) { f(t, runc(t), true) })
}

// expect runs verbs in the container's bundle.
func (c *container) expect(verbs ...verb) {
	c.t.Helper()
	for _, v := range verbs {
		var args []string
		for i, part := range strings.Split(strings.ReplaceAll(v.line, "ID", c.id), "'") {
			if i%2 == 1 {
				args = append(args, part)
			} else {
				args = append(args, strings.Fields(part)...)
			}
		}
		cmd := exec.Command(c.rt, args...)
		var stdout, stderr bytes.Buffer
		cmd.Dir, cmd.Stdout, cmd.Stderr = c.dir, &stdout, &stderr
		err := cmd.Run()
		if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
			c.t.Fatalf("%s: %v", v.line, err)
		}
		code := cmd.ProcessState.ExitCode()
		out, text := flat(stdout.String()), flat(stderr.String())
		if code != v.code || !like(v.out, out) || v.err != "" && !like(v.err, text) {
			c.t.Errorf("%s\nexit code %d, want %d\nstdout %q, want %q\nstderr %q, want %q", v.line, code, v.code, out, v.out, text, v.err)
		}
	}
}

func flat(text string) string {
	return strings.ReplaceAll(strings.Join(strings.Fields(text), " "), `\"`, `"`)
}

// like compares with a pattern in which * stands for anything.
func like(pattern, text string) bool {
	plain := strings.NewReplacer("/", "|", "[", "(", "]", ")", "\\", "|").Replace
	ok, err := path.Match(plain(pattern), plain(text))
	return ok && err == nil
}

// TestVerbs takes a container through its life by what an engine gives a runtime, and compares what that parses.
func TestVerbs(t *testing.T) {
	each(t, func(t *testing.T, rt string, control bool) {
		none := &container{t, rt, "verbs", t.TempDir()}
		none.expect(
			verb{line: "state ID", code: 1, err: "*container does not exist*"},
			verb{line: "start ID", code: 1, err: "*container does not exist*"},
			verb{line: "kill ID KILL", code: 1, err: "*container does not exist*"},
			verb{line: "pause ID", code: 1, err: "*container does not exist*"},
			verb{line: "exec ID true", code: 255, err: "*container does not exist*"},
			verb{line: "delete ID", code: 1, err: "*container does not exist*"},
			verb{line: "delete --force ID"},
			verb{line: "list --quiet"},
			verb{line: "list", out: "ID PID STATUS BUNDLE CREATED OWNER"},
			verb{line: "list --format json", out: "null"},
		)
		c := create(t, rt, "verbs", func(s *specs.Spec) {
			only := []string{"CAP_NET_BIND_SERVICE"}
			s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: only, Effective: only, Permitted: only}
			s.Process.Args = []string{"sh", "-c", `trap "echo usr1" USR1; echo runs; while :; do sleep 60 & wait $!; done`}
		})
		c.expect(
			verb{line: "create --bundle . ../ID", code: 1, err: "*invalid container ID format*"},
			verb{line: "create --bundle . ID", code: 1, err: "*container with given ID already exists*"},
			verb{line: "state ID", out: `{ "ociVersion": "1.*", "id": "verbs", "pid": *, "status": "created", "bundle": "*", "rootfs": "*", "created": "*Z", "owner": "" }`},
			verb{line: "list", out: "ID PID STATUS BUNDLE CREATED OWNER verbs * created /*Z root"},
			verb{line: "list --quiet", out: "verbs"},
			verb{line: "ps ID", out: "UID PID PPID C STIME TTY TIME CMD*"},
			verb{line: "start ID"},
			verb{line: "start ID", code: 1, err: "*cannot start an already running container*"},
		)
		c.awaitOutput("runs")
		c.expect(
			verb{line: "list --format json", out: `({"ociVersion":"1.*","id":"verbs","pid":*,"status":"running","bundle":"*","rootfs":"*","created":"*Z","owner":"root"})`},
			verb{line: "exec ID sh -c 'echo out; echo err >&2; exit 9'", code: 9, out: "out", err: "err"},
			verb{line: "exec ID /no/such", code: 255, err: `*exec failed: unable to start container process: exec: "/no/such": *no such file or directory*`},
			verb{line: "exec --user 1000:1001 --additional-gids 5 --additional-gids 6 --env A=b --cwd /bin --no-new-privs ID " +
				"sh -c 'id -u; id -g; grep -h Groups /proc/self/status; echo $A; pwd; grep NoNewPrivs /proc/self/status'",
				out: "1000 1001 Groups: 5 6 *b /bin NoNewPrivs: 1"},
			verb{line: "exec --cap CAP_CHOWN ID grep CapEff /proc/self/status", out: "CapEff: 0000000000000401"},
			verb{line: "ps ID", out: "UID PID PPID C STIME TTY TIME CMD *"},
			verb{line: "ps ID -o pid,comm", out: "PID COMMAND *"},
			verb{line: "ps --format json ID", out: "(*)"},
			verb{line: "events --stats ID", out: `{"type":"stats","id":"verbs","data":{"cpu":{"usage":{"total":*"memory":{*"pids":{"current":*`},
			verb{line: "kill ID NONE", code: 1, err: `*unknown signal*`},
			verb{line: "kill ID 0"},
			verb{line: "kill --all ID USR1"},
		)
		c.awaitOutput("usr1")
		if !control {
			c.expect(
				verb{line: "exec --cgroup other ID true", code: 255, err: "*--cgroup other: *leave it out*"},
				verb{line: "exec --preserve-fds 1 ID true", code: 255, err: "*preserve-fds*"},
				verb{line: "checkpoint ID", code: 1, err: "*checkpoint*"},
				verb{line: "restore ID", code: 1, err: "*restore*"},
			)
		}
		c.expect(
			verb{line: "pause ID"},
			verb{line: "state ID", out: `*"status": "paused"*`},
			verb{line: "exec ID true", code: 255, err: "*paused*"},
			verb{line: "pause ID", code: 1, err: "*container not running*"},
			verb{line: "resume ID"},
			verb{line: "resume ID", code: 1, err: "*container not paused*"},
			verb{line: "exec ID echo again", out: "again"},
			verb{line: "delete ID", code: 1, err: "*cannot delete container verbs that is not stopped: running*"},
			verb{line: "kill ID KILL"},
		)
		c.awaitStopped()
		c.expect(
			verb{line: "state ID", out: `*"pid": 0, "status": "stopped"*`},
			verb{line: "list", out: "ID PID STATUS BUNDLE CREATED OWNER verbs 0 stopped /*"},
			verb{line: "exec ID true", code: 255, err: "*cannot exec in a stopped container*"},
			verb{line: "kill ID KILL", code: 1, err: "*container not running*"},
			verb{line: "pause ID", code: 1, err: "*container not running*"},
			verb{line: "ps ID", out: "UID PID PPID C STIME TTY TIME CMD"},
			verb{line: "ps --format json ID", out: "null"},
			verb{line: "delete ID"},
			verb{line: "state ID", code: 1, err: "*container does not exist*"},
		)
	})
}

// TestRun runs containers from their creation to their end by one command.
func TestRun(t *testing.T) {
	each(t, func(t *testing.T, rt string, _ bool) {
		c := bundle(t, rt, "run", func(s *specs.Spec) { s.Process.Args = []string{"sh", "-c", "echo out; echo err >&2; exit 6"} })
		t.Cleanup(func() { ask(t, rt, c.dir, "delete", "--force", c.id) })
		c.expect(
			verb{line: "run ID", code: 6, out: "out", err: "err"},
			verb{line: "state ID", code: 1, err: "*container does not exist*"},
			verb{line: "run --keep --bundle . ID", code: 6, out: "out", err: "err"},
			verb{line: "state ID", out: `*"status": "stopped"*`},
			verb{line: "delete ID"},
			verb{line: "run --detach --console-socket /no/socket ID", code: 1, err: "*"},
			verb{line: "state ID", code: 1, err: "*container does not exist*"},
		)
		long := bundle(t, rt, "run", func(s *specs.Spec) { s.Process.Args = []string{"sleep", "3600"} })
		// What is detached keeps the output, for which expect would wait.
		cmd := exec.Command(rt, "run", "--detach", "--pid-file", "pid", "run")
		cmd.Dir = long.dir
		if err := cmd.Run(); err != nil {
			t.Fatal(err)
		}
		pid, err := os.ReadFile(filepath.Join(long.dir, "pid"))
		if state := long.state(); err != nil || state.Status != specs.StateRunning || fmt.Sprint(state.Pid) != string(pid) {
			t.Errorf("pid file %q, %v; state %+v", pid, err, state)
		}
		long.expect(verb{line: "delete --force ID"}, verb{line: "state ID", code: 1, err: "*container does not exist*"})
	})
}
