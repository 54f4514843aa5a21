package ocicli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func shell(script string) specs.Hook {
	return specs.Hook{Path: "/bin/sh", Args: []string{"sh", "-c", script}}
}

func TestHooksRunInOrderWithTheState(t *testing.T) {
	dir := t.TempDir()
	state := &specs.State{Version: "1.0.2", ID: "x", Status: specs.StateCreating, Pid: 7, Bundle: dir, Annotations: map[string]string{"a": "b"}}
	hook := shell(`cat >state; printf '%s %s,' "$A" "$(pwd)" >>calls`)
	hook.Env = []string{"A=1"}
	second := hook
	second.Env = []string{"A=2"}
	if err := runHooks(t.Context(), "prestart", []specs.Hook{hook, second}, state); err != nil {
		t.Fatal(err)
	}
	calls, err := os.ReadFile(filepath.Join(dir, "calls"))
	if want := "1 " + dir + ",2 " + dir + ","; err != nil || string(calls) != want {
		t.Errorf("%q (%v), want %q", calls, err, want)
	}
	text, err := os.ReadFile(filepath.Join(dir, "state"))
	if err != nil {
		t.Fatal(err)
	}
	var got specs.State
	if err := json.Unmarshal(text, &got); err != nil || got.ID != "x" || got.Status != specs.StateCreating || got.Pid != 7 ||
		got.Bundle != dir || got.Annotations["a"] != "b" {
		t.Errorf("%s (%v)", text, err)
	}
}

func TestAHookThatFailsEndsTheOthers(t *testing.T) {
	timeout := 1
	slow := shell("exec sleep 60")
	slow.Timeout = &timeout
	for _, c := range []struct {
		name string
		hook specs.Hook
		want []string
	}{
		{"exit code", shell("echo why; exit 3"), []string{"poststart hook #1", "/bin/sh", "exit status 3", "why"}},
		{"no program", specs.Hook{Path: "/nowhere"}, []string{"poststart hook #1", "/nowhere"}},
		{"timeout", slow, []string{"poststart hook #1", "timeout of 1 s"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			state := &specs.State{Bundle: t.TempDir()}
			err := runHooks(t.Context(), "poststart", []specs.Hook{shell("true"), c.hook, shell("touch third")}, state)
			if err == nil {
				t.Fatal("no error")
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%q has no %q", err, w)
				}
			}
			if _, err := os.Stat(filepath.Join(state.Bundle, "third")); err == nil {
				t.Error("the hook after it ran")
			}
		})
	}
}
