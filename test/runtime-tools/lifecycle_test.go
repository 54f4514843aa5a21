package runtimetools

import (
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// hooks are hooks that note that they were called, and keep the state that they get.
type hooks struct{ dir string }

func (h hooks) hook(name string) specs.Hook {
	return specs.Hook{
		Path: "/bin/sh",
		Args: []string{"sh", "-c", `echo "$1" >>"$0/called" && cat >"$0/$1"`, h.dir, name},
		Env:  []string{"PATH=/usr/bin:/bin"},
	}
}

// called are the names of the hooks that were called, in order.
func (h hooks) called(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(h.dir, "called"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return strings.Join(strings.Fields(string(text)), " ")
}

// got compares the state that a hook has got.
func (h hooks) got(t *testing.T, name string, want specs.State) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(h.dir, name))
	if err != nil {
		t.Fatal(err)
	}
	matches(t, "state-schema.json", text)
	var got specs.State
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	if got.ID != want.ID || got.Bundle != want.Bundle || got.Pid != want.Pid || got.Status != want.Status ||
		!maps.Equal(got.Annotations, want.Annotations) {
		t.Errorf("%s got %s, want %+v", name, text, want)
	}
}

// The programs start, prestart, poststart, poststop, killsig, hooks, hooks_stdin and delete do not apply, for what they look at or want in a
// place. The rest of what they ask for is asked for here.
func TestLifecycle(t *testing.T) {
	h := hooks{t.TempDir()}
	t.Setenv("NOTIFY_SOCKET", filepath.Join(h.dir, "notify"))
	c := create(t, runtime(t), "lifecycle", func(s *specs.Spec) {
		s.Process.Args = []string{"sh", "-c", `echo "hook got $(cat /started)"; for s in TERM USR1 USR2; do trap "echo got $s" $s; done; echo process runs; while :; do sleep 60 & wait $!; done`}
		s.Annotations = map[string]string{"org.example": "x"}
		s.Hooks = &specs.Hooks{
			Prestart:      []specs.Hook{h.hook("prestart1"), h.hook("prestart2")}, //nolint:staticcheck // engines still use it
			CreateRuntime: []specs.Hook{h.hook("createRuntime")},
			// In the container, by its own shell.
			StartContainer: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", `[ "$A" = 1 ] && cat >/started`}, Env: []string{"A=1", "PATH=/bin"}}},
			Poststart:      []specs.Hook{h.hook("poststart1"), h.hook("poststart2")},
			Poststop:       []specs.Hook{{Path: "/bin/false"}, h.hook("poststop1"), h.hook("poststop2")},
		}
	})
	calls := "prestart1 prestart2 createRuntime"
	if got := h.called(t); got != calls {
		t.Errorf("after create %q were called, want %q", got, calls)
	}
	want := c.state()
	if want.Status != specs.StateCreated {
		t.Errorf("after create it is %s", want.Status)
	}
	want.Status = specs.StateCreating
	h.got(t, "prestart1", want)
	h.got(t, "createRuntime", want)
	if out := c.output(); out != "" {
		t.Errorf("after create there is output: %q", out)
	}

	people := filepath.Join(env(t, "RUNCVM_BIN"), "runcvm")
	data := filepath.Join(filepath.Dir(c.rt), "d")
	if log := ask(t, people, c.dir, "--data-dir", data, "logs", "--source", "monitor", c.id); !strings.Contains(string(log), "NOTIFY_SOCKET") {
		t.Errorf("the monitor's log does not name what is left out:\n%s", log)
	}
	c.refuses("exec", "true") // its microVM is not up

	c.do("start")
	if calls += " poststart1 poststart2"; h.called(t) != calls {
		t.Errorf("after start %q were called, want %q", h.called(t), calls)
	}
	want.Status = specs.StateRunning
	h.got(t, "poststart1", want)
	c.awaitOutput("process runs")
	startContainerGot(t, c.output(), want)
	c.refuses("start")
	c.refuses("delete")
	for _, s := range []string{"TERM", "USR1", "USR2"} {
		c.do("kill", s)
		c.awaitOutput("got " + s)
	}

	c.do("kill", "KILL")
	c.await("its end", func() bool {
		// The process ends before its guest does.
		out, err := exec.Command(c.rt, "kill", c.id, "TERM").CombinedOutput()
		if err != nil && !strings.Contains(string(out), "container not running") {
			t.Errorf("kill of an ended process: %s", out)
		}
		return c.state().Status == specs.StateStopped
	})
	c.refuses("start")
	c.refuses("kill", "KILL")
	if n := strings.Count(c.output(), "process runs"); n != 1 {
		t.Errorf("the process ran %d times", n)
	}
	if got := h.called(t); got != calls {
		t.Errorf("before delete %q were called, want %q", got, calls)
	}
	c.do("delete")
	if calls += " poststop1 poststop2"; h.called(t) != calls {
		t.Errorf("after delete %q were called, want %q", h.called(t), calls)
	}
	want.Status, want.Pid = specs.StateStopped, 0
	h.got(t, "poststop1", want)
}

// The program poststart_fail wants what the runtime specification says before 1.3.0.
func TestAFailedPoststartHookIsTheContainersEnd(t *testing.T) {
	h := hooks{t.TempDir()}
	c := create(t, runtime(t), "poststart", func(s *specs.Spec) {
		s.Process.Args = []string{"sleep", "3600"}
		s.Hooks = &specs.Hooks{
			Poststart: []specs.Hook{{Path: "/bin/false"}, h.hook("poststart2")},
			Poststop:  []specs.Hook{h.hook("poststop")},
		}
	})
	out, err := exec.Command(c.rt, "start", c.id).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "poststart hook #0") {
		t.Errorf("start: %v\n%s", err, out)
	}
	c.awaitStopped()
	c.do("delete")
	if got := h.called(t); got != "poststop" {
		t.Errorf("%q were called, want poststop alone", got)
	}
}

// startContainerGot looks at the state that the startContainer hook has got in the guest: id, bundle and status are the guest's runtime's.
func startContainerGot(t *testing.T, output string, want specs.State) {
	t.Helper()
	_, rest, _ := strings.Cut(output, "hook got ")
	text, _, _ := strings.Cut(rest, "\n")
	var got specs.State
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		t.Fatalf("the startContainer hook got %q: %v", text, err)
	}
	if got.ID == "" || got.Status == "" || !maps.Equal(got.Annotations, want.Annotations) {
		t.Errorf("the startContainer hook got %s", text)
	}
}

func TestAFailedHookOfTheCreationIsTheContainersEnd(t *testing.T) {
	fails := specs.Hook{Path: "/bin/false"}
	for name, add := range map[string]func(*specs.Hooks, hooks){
		"prestart": func(s *specs.Hooks, h hooks) {
			s.Prestart = []specs.Hook{h.hook("first"), fails, h.hook("never")} //nolint:staticcheck // engines still use it
		},
		"createRuntime": func(s *specs.Hooks, h hooks) {
			s.CreateRuntime = []specs.Hook{h.hook("first"), fails, h.hook("never")}
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := hooks{t.TempDir()}
			c := bundle(t, runtime(t), "failed-"+name, func(s *specs.Spec) {
				s.Hooks = &specs.Hooks{Poststop: []specs.Hook{fails, h.hook("poststop")}}
				add(s.Hooks, h)
			})
			c.deleteAtEnd()
			if err := c.try("create", "--bundle", c.dir, c.id); err == nil || !strings.Contains(c.output(), name+" hook #1") {
				t.Errorf("create: %v\n%s", err, c.output())
			}
			if c.exists() {
				t.Error("the container is left")
			}
			if got := h.called(t); got != "first poststop" {
				t.Errorf("%q were called, want first and poststop", got)
			}
			h.got(t, "poststop", specs.State{ID: c.id, Bundle: c.dir, Status: specs.StateStopped})
		})
	}
}

func TestRunKeepsWhatCouldNotBeStartedWhenAskedTo(t *testing.T) {
	for _, flags := range [][]string{{"--keep"}, {"--keep", "--detach"}, nil} {
		t.Run(strings.Join(flags, " "), func(t *testing.T) {
			c := bundle(t, runtime(t), "kept", func(s *specs.Spec) { s.Process.Args = []string{"/no/such/program"} })
			c.deleteAtEnd()
			args := append([]string{"run", "--bundle", c.dir}, append(flags, c.id)...)
			if err := c.try(args...); err == nil || !strings.Contains(c.output(), "/no/such/program") {
				t.Errorf("run: %v\n%s", err, c.output())
			}
			if got, want := c.exists(), flags != nil; got != want {
				t.Fatalf("the container is there: %t", got)
			}
			if flags != nil && c.state().Status != specs.StateStopped {
				t.Errorf("the container is %s", c.state().Status)
			}
		})
	}
}
