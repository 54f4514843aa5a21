package api

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func TestIdentitiesAreChecked(t *testing.T) {
	for id, ok := range map[string]bool{
		"a": true, "a-1": true, "é": true, strings.Repeat("a", 64): true, "": false, strings.Repeat("a", 65): false, "a.b": false, "a_b": false,
		"a/b": false, "\xff": false,
	} {
		if err := CheckID(id); (err == nil) != ok {
			t.Errorf("%q: %v", id, err)
		}
	}
}

func TestLogHasFirecrackersFormat(t *testing.T) {
	var out bytes.Buffer
	log := NewLog("vm-1", &out)
	log.Logger().Info("one", "k", "v")
	log.Logger().Debug("below the level")
	yes, level := true, "debug"
	if err := log.Update(Logger{Level: &level, ShowLevel: &yes, ShowLogOrigin: &yes}); err != nil {
		t.Fatal(err)
	}
	log.Logger().Debug("two")
	form := regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9} \[vm-1:main\] one k=v\n` +
		`\S+ \[vm-1:main:DEBUG:api_test.go:\d+\] two\n$`)
	if !form.MatchString(out.String()) {
		t.Fatalf("got %q", out.String())
	}
	path := filepath.Join(t.TempDir(), "log")
	if err := log.Update(Logger{LogPath: &path}); err != nil {
		t.Fatal(err)
	}
	log.Logger().Debug("the level is info again")
	log.Logger().Warn("three")
	b, err := os.ReadFile(path)
	if err != nil || !strings.HasSuffix(string(b), " three\n") || strings.Count(string(b), "\n") != 1 {
		t.Fatalf("%v %q", err, b)
	}
}

func TestMetricsCountRequestsSinceTheLastLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "metrics")
	m := &MetricsFile{}
	if err := m.Open(path); err != nil {
		t.Fatal(err)
	}
	m.count("PUT", "/drives/a", false)
	m.count("PUT", "/drives/b", true)
	m.count("GET", "/", false)
	for range 2 {
		if err := m.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	var first, second map[string]json.RawMessage
	if len(lines) != 2 || json.Unmarshal([]byte(lines[0]), &first) != nil || json.Unmarshal([]byte(lines[1]), &second) != nil {
		t.Fatalf("got %q", b)
	}
	if got := string(first["put_api_requests"]); got != `{"drive_count":2,"drive_fails":1}` {
		t.Errorf("puts: %s", got)
	}
	if got := string(first["get_api_requests"]); got != `{"instance_info_count":1}` {
		t.Errorf("gets: %s", got)
	}
	if len(second) != 1 {
		t.Errorf("second line: %s", lines[1])
	}
}

// specs keeps what it is asked to launch.
type specs struct{ got []Spec }

func (s *specs) Launch(_ context.Context, spec Spec) (Machine, error) {
	s.got = append(s.got, spec)
	return nil, faultf("nothing boots here")
}

func TestSpecIsWhatFirecrackerWouldBoot(t *testing.T) {
	dir := t.TempDir()
	kernel, disk := filepath.Join(dir, "k"), filepath.Join(dir, "d")
	for path, text := range map[string]string{kernel: "\x7fELF" + strings.Repeat("x", 100), disk: strings.Repeat("x", 1024)} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	launched := &specs{}
	v := New(Options{ID: "a", Launcher: launched, Log: NewLog("a", &bytes.Buffer{}), Metrics: &MetricsFile{}})
	do := func(method, path, body string, want int) {
		t.Helper()
		if status, answer, _ := v.Handle(t.Context(), method, path, []byte(body)); status != want {
			t.Fatalf("%s %s: %d %s", method, path, status, answer)
		}
	}
	do("PUT", "/boot-source", `{"kernel_image_path":"`+kernel+`","boot_args":"a=b"}`, 204)
	do("PUT", "/drives/x", `{"drive_id":"x","path_on_host":"`+disk+`","is_root_device":false}`, 204)
	do("PUT", "/drives/r", `{"drive_id":"r","path_on_host":"`+disk+`","is_root_device":true,"is_read_only":true,"partuuid":"p"}`, 204)
	do("PUT", "/actions", `{"action_type":"InstanceStart"}`, 400)
	do("GET", "/nothing", "", 400)
	if len(launched.got) != 1 {
		t.Fatalf("launched %d times", len(launched.got))
	}
	s := launched.got[0]
	if s.Cmdline != "a=b pci=off root=PARTUUID=p ro" {
		t.Errorf("command line %q", s.Cmdline)
	}
	if len(s.Drives) != 2 || s.Drives[0].DriveID != "r" || s.Machine.VCPUCount != 1 || s.Machine.MemSizeMiB != 128 {
		t.Errorf("spec %+v", s)
	}
}
