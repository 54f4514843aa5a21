package guest

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestReadEntrypoint(t *testing.T) {
	for name, tt := range map[string]struct {
		content string
		want    []string // nil: an error
	}{
		"one":                     {`["true"]`, []string{"true"}},
		"all kinds of arguments":  {`["sh","-c","a\nb","","\"'","-x","äöü€😀"]`, []string{"sh", "-c", "a\nb", "", `"'`, "-x", "äöü€😀"}},
		"100 KiB":                 {`["echo","` + strings.Repeat("x", 100<<10) + `"]`, []string{"echo", strings.Repeat("x", 100<<10)}},
		"empty file":              {``, nil},
		"empty array":             {`[]`, nil},
		"null":                    {`null`, nil},
		"empty command":           {`[""]`, nil},
		"a string":                {`"true"`, nil},
		"numbers":                 {`[1]`, nil},
		"truncated":               {`["sh"`, nil},
		"two values":              {`["sh"]["sh"]`, nil},
		"NUL":                     {`["a\u0000b"]`, nil},
		"more than anybody reads": {`["` + strings.Repeat("x", maxEntrypoint) + `"]`, nil},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "entrypoint")
			if err := os.WriteFile(path, []byte(tt.content), 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := readEntrypoint(path)
			if (err == nil) != (tt.want != nil) || !reflect.DeepEqual(got, tt.want) {
				t.Fatalf("%.200q, %v", got, err)
			}
		})
	}
	t.Run("missing", func(t *testing.T) {
		if _, err := readEntrypoint(filepath.Join(t.TempDir(), "x")); !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	})
}

func TestBoundedCommandInTheLog(t *testing.T) {
	if got := bounded([]string{"sh", "-c", "a<b && c\n"}); got != `["sh","-c","a<b && c\n"]` {
		t.Errorf("%s", got)
	}
	long := bounded([]string{"echo", strings.Repeat("x", 1<<20), "end"})
	if len(long) > maxLoggedEntrypoint+64 || !strings.HasSuffix(long, `"..."]`) {
		t.Errorf("%d bytes: %.50s", len(long), long)
	}
}

const hostSpec = `{"ociVersion":"1.0.2","hostname":"h","futureField":{"a":[1,2.50]},
 "root":{"path":"rootfs","readonly":true},
 "process":{"env":["PATH=/bin"],"cwd":"/w","user":{"uid":5,"gid":6,"umask":18,"additionalGids":[7]},"capabilities":{"bounding":["CAP_KILL"]}},
 "mounts":[{"destination":"/proc","type":"proc"},{"destination":"/data"}],
 "annotations":{"dev.runcvm.user":"app","other":"x"},
 "linux":{"maskedPaths":["/proc/kcore"],"resources":{"memory":{"limit":12345678901234}}}}`

func groups(names []string) ([]uint32, error) {
	if !reflect.DeepEqual(names, []string{"audio", "42"}) {
		return nil, fmt.Errorf("resolved %q", names)
	}
	return []uint32{29, 42}, nil
}

func complete(t *testing.T, spec string, resolve func(string) (execUser, error)) (map[string]any, *process, error) {
	t.Helper()
	out, p, err := completeConfig([]byte(spec), []string{"cmd", "arg"}, "/rootfs", "/runcvm/c", userLookup{resolve, groups})
	if err != nil {
		return nil, nil, err
	}
	var m map[string]any
	d := json.NewDecoder(strings.NewReader(string(out)))
	d.UseNumber()
	if err := d.Decode(&m); err != nil {
		t.Fatal(err)
	}
	return m, p, nil
}

func TestCompleteConfig(t *testing.T) {
	app := func(name string) (execUser, error) {
		if name != "app" {
			t.Errorf("resolved %q", name)
		}
		return execUser{UID: 1000, GID: 1001, AdditionalGids: []uint32{1002}, home: "/home/app"}, nil
	}
	m, p, err := complete(t, hostSpec, app)
	if err != nil {
		t.Fatal(err)
	}
	var want map[string]any
	d := json.NewDecoder(strings.NewReader(`{"ociVersion":"1.0.2","hostname":"h","futureField":{"a":[1,2.50]},
	 "root":{"path":"/rootfs","readonly":true},
	 "process":{"args":["cmd","arg"],"env":["PATH=/bin","HOME=/home/app"],"cwd":"/w",
	   "user":{"uid":1000,"gid":1001,"umask":18,"additionalGids":[1001,1002,7]},"capabilities":{"bounding":["CAP_KILL"]}},
	 "mounts":[{"destination":"/proc","type":"proc"},{"destination":"/data"}],
	 "annotations":{"other":"x"},
	 "linux":{"maskedPaths":["/proc/kcore"],"cgroupsPath":"/runcvm/c","resources":{"memory":{"limit":12345678901234}}}}`))
	d.UseNumber()
	if err := d.Decode(&want); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(m, want) {
		t.Errorf("got  %v\nwant %v", m, want)
	}
	if !reflect.DeepEqual(p.mounts, []string{"/proc", "/data"}) || p.user.UID != 1000 || p.cwd != "/w" {
		t.Errorf("%+v", p)
	}
}

func TestCompleteConfigAddsWhatTheHostAskedFor(t *testing.T) {
	spec := strings.NewReplacer(`"dev.runcvm.user":"app"`, `"dev.runcvm.groups":"audio,42","dev.runcvm.init":"true"`,
		`"linux":{`, `"linux":{"sysctl":{"net.core.somaxconn":"7","kernel.msgmax":"9","vm/x.y/z":"1"},`).Replace(hostSpec)
	m, p, err := complete(t, spec, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(p.user.AdditionalGids, []uint32{6, 7, 29, 42}) {
		t.Errorf("groups %v", p.user.AdditionalGids)
	}
	if want := map[string]string{"/net/core/somaxconn": "7", "/vm/x.y/z": "1"}; !reflect.DeepEqual(p.sysctls, want) {
		t.Errorf("the agent sets %v", p.sysctls)
	}
	if crun := m["linux"].(map[string]any)["sysctl"]; !reflect.DeepEqual(crun, map[string]any{"kernel.msgmax": "9"}) {
		t.Errorf("crun sets %v", crun)
	}
	args := m["process"].(map[string]any)["args"]
	if !reflect.DeepEqual(args, []any{"/sbin/docker-init", "--", "cmd", "arg"}) || !reflect.DeepEqual(p.args, []string{"cmd", "arg"}) {
		t.Errorf("runs %v, looks at %q", args, p.args)
	}
	mounts := m["mounts"].([]any)
	if last := mounts[len(mounts)-1].(map[string]any); last["source"] != "/init" || last["destination"] != "/sbin/docker-init" {
		t.Errorf("mounts %v", mounts)
	}
	if a := m["annotations"]; !reflect.DeepEqual(a, map[string]any{"other": "x"}) {
		t.Errorf("annotations %v", a)
	}
}

func TestCompleteConfigLeavesWhatTheHostHasDecided(t *testing.T) {
	never := func(string) (execUser, error) {
		t.Error("resolved a user that was not asked for")
		return execUser{}, nil
	}
	m, p, err := complete(t, strings.Replace(hostSpec, `"dev.runcvm.user":"app",`, "", 1), never)
	if err != nil {
		t.Fatal(err)
	}
	if p.user.UID != 5 || p.user.GID != 6 || !reflect.DeepEqual(p.user.AdditionalGids, []uint32{6, 7}) || hasEnv(p.env, "HOME") {
		t.Errorf("%+v", p)
	}
	if u := m["process"].(map[string]any)["user"].(map[string]any); u["uid"] != json.Number("5") {
		t.Errorf("%v", u)
	}
	t.Run("HOME too", func(t *testing.T) {
		_, p, err := complete(t, strings.Replace(hostSpec, `"PATH=/bin"`, `"HOME=/x"`, 1),
			func(string) (execUser, error) { return execUser{home: "/y"}, nil })
		if err != nil || !reflect.DeepEqual(p.env, []string{"HOME=/x"}) {
			t.Errorf("%v %v", p, err)
		}
	})
}

func TestCompleteConfigRefuses(t *testing.T) {
	refused := errors.New("no such user")
	for name, spec := range map[string]string{
		"no JSON":         "x",
		"no process":      `{"root":{},"linux":{}}`,
		"no root":         `{"process":{},"linux":{}}`,
		"no linux":        `{"process":{},"root":{}}`,
		"an array":        `[]`,
		"env of numbers":  `{"process":{"env":[1]},"root":{},"linux":{}}`,
		"an unknown user": hostSpec,
	} {
		if _, _, err := complete(t, spec, func(string) (execUser, error) { return execUser{}, refused }); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestCopiesAreMountedFromTheDisk(t *testing.T) {
	raw := `{"mounts":[{"destination":"/proc","source":"proc"},{"destination":"/etc/hosts","source":"/.runcvm/copies/3","options":["ro"]},` +
		`{"destination":"/x","source":"/.runcvm/copies/../../../z"},{"destination":"/y"}]}`
	got, err := placeCopies([]byte(raw), "/run/c/disk/.runcvm/copies")
	if err != nil {
		t.Fatal(err)
	}
	want := `{"mounts":[{"destination":"/proc","source":"proc"},{"destination":"/etc/hosts","options":["ro"],"source":"/run/c/disk/.runcvm/copies/3"},` +
		`{"destination":"/x","source":"/run/c/disk/.runcvm/copies/z"},{"destination":"/y"}]}`
	if string(got) != want {
		t.Errorf("%s", got)
	}
	if got, err = placeCopies([]byte(`{"hostname":"h"}`), "/d"); err != nil || string(got) != `{"hostname":"h"}` {
		t.Errorf("%s, %v", got, err)
	}
}
