package oci

import (
	"reflect"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestExecProcess(t *testing.T) {
	c := Container{Env: []string{"PATH=/bin", "A=1", "B=2"}, Cwd: "/w", User: "app", Terminal: true}
	p := ExecProcess(c, Exec{Args: []string{"cmd"}, Env: []string{"B=3", "C=4"}})
	if !reflect.DeepEqual(p.Args, []string{"cmd"}) || !reflect.DeepEqual(p.Env, []string{"PATH=/bin", "A=1", "B=3", "C=4"}) ||
		p.Cwd != "/w" || p.Terminal || p.ConsoleSize != nil || !reflect.DeepEqual(p.Capabilities.Bounding, defaultCapabilities) {
		t.Errorf("%+v", p)
	}
	p = ExecProcess(c, Exec{Args: []string{"cmd"}, Cwd: "/x/../y", Privileged: true, Terminal: true, Rows: 24, Columns: 80})
	if p.Cwd != "/y" || !p.Terminal || !reflect.DeepEqual(p.ConsoleSize, &specs.Box{Height: 24, Width: 80}) ||
		p.Env[len(p.Env)-1] != "TERM=xterm" || !reflect.DeepEqual(p.Capabilities.Effective, capabilities) {
		t.Errorf("%+v", p)
	}
	if p := ExecProcess(c, Exec{Args: []string{"cmd"}, Env: []string{"TERM=dumb"}, Terminal: true}); p.Env[3] != "TERM=dumb" || len(p.Env) != 4 {
		t.Errorf("%q", p.Env)
	}
	if len(c.Env) != 3 {
		t.Errorf("the container's environment has become %q", c.Env)
	}
}

func TestExecsThatCannotBe(t *testing.T) {
	for want, e := range map[string]Exec{
		"no command":           {},
		"no command to run":    {Args: []string{""}},
		"not an absolute path": {Args: []string{"x"}, Cwd: "relative"},
		"not valid UTF-8":      {Args: []string{"\xff"}},
		"NUL":                  {Args: []string{"x"}, User: "a\x00"},
		"not NAME=value":       {Args: []string{"x"}, Env: []string{"A"}},
	} {
		if err := e.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v", e, err)
		}
	}
	if err := (Exec{Args: []string{"x"}, Cwd: "/", Env: []string{"A=1"}, User: "1:2"}).Check(); err != nil {
		t.Error(err)
	}
}
