package cli

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/runcvm/runcvm/internal/container"
)

func TestArgumentPlaces(t *testing.T) {
	for use, want := range map[string]string{
		"ps": "", "rm CONTAINER...": "CONTAINER...", "run [flags] IMAGE [COMMAND [ARG...]]": "IMAGE COMMAND ARG...",
		"images [REPOSITORY[:TAG]]": "REPOSITORY[:TAG]", "import PATH [NAME]": "PATH NAME",
	} {
		if got := strings.Join(argumentPlaces(use), " "); got != want {
			t.Errorf("%q has %q, want %q", use, got, want)
		}
	}
}

func TestContainersAndFlagsAreCompleted(t *testing.T) {
	data, run := t.TempDir(), t.TempDir()
	t.Setenv("RUNCVM_CONFIG", "/dev/null")
	for _, name := range []string{"web", "db"} {
		h, err := container.New(data, run).Create(t.Context(), container.Record{ID: name + strings.Repeat("0", 60), Name: name,
			Image: "debian:12", State: "stopped", Finished: time.Now()})
		if err != nil {
			t.Fatal(err)
		}
		if err := h.Close(name, false); err != nil {
			t.Fatal(err)
		}
	}
	complete := func(args ...string) string {
		a := newApp()
		var out, discard bytes.Buffer
		a.stdout, a.stderr = &out, &discard
		root := a.root()
		a.completeArguments(root)
		root.SetOut(&out)
		root.SetErr(&discard)
		root.SetArgs(append([]string{"__complete", "--data-dir", data, "--run-dir", run}, args...))
		if err := root.ExecuteContext(t.Context()); err != nil {
			t.Fatalf("%v: %v", args, err)
		}
		return out.String()
	}
	if got := complete("logs", ""); !strings.Contains(got, "web\tdebian:12, exited (0)") || !strings.Contains(got, "db\t") || !strings.HasSuffix(got, ":4\n") {
		t.Errorf("logs: %q", got)
	}
	if got := complete("logs", "web", ""); strings.Contains(got, "db") {
		t.Errorf("a second argument of logs, which takes one: %q", got)
	}
	if got := complete("rm", "web", ""); strings.Contains(got, "web\t") || !strings.Contains(got, "db\t") {
		t.Errorf("rm web: %q", got)
	}
	if got := complete("ps", "--no"); !strings.Contains(got, "--no-trunc") {
		t.Errorf("flags: %q", got)
	}
	if got := complete("run", ""); got != ":4\n" {
		t.Errorf("images where there are none: %q", got)
	}
	if got := complete("import", ""); got != ":0\n" {
		t.Errorf("paths are the shell's: %q", got)
	}
	if got := complete("cp", ""); !strings.Contains(got, "web:\tdebian:12") || !strings.HasSuffix(got, ":2\n") {
		t.Errorf("cp: %q", got)
	}
	if got := complete("logs", "--source", ""); !strings.Contains(got, "console\n") || !strings.HasSuffix(got, ":4\n") {
		t.Errorf("values of a flag: %q", got)
	}
	if got := complete("completion", ""); !strings.Contains(got, "bash\nzsh\nfish\n") {
		t.Errorf("shells: %q", got)
	}
}
