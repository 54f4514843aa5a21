package ocicli

import (
	"os"
	"strings"
	"testing"
)

func TestWhichCommandLinesAreARuntimes(t *testing.T) {
	t.Setenv("RUNCVM_CONFIG", "/dev/null")
	t.Setenv("RUNCVM_DATA_DIR", t.TempDir())
	t.Chdir(t.TempDir())
	for line, want := range map[string]bool{
		"":                            false,
		"run debian:12 echo --bundle": false,
		"run -it debian:12 sh":        false,
		"run --rm debian:12 delete":   false,
		"run name":                    false,
		"create name":                 false,
		"exec name -p 1":              false,
		"exec -it name sh":            false,
		"start name":                  false,
		"kill name KILL":              false,
		"ps -a":                       false,
		"--data-dir /x ps":            false,
		"events":                      false,
		"--root /r start name":        true,
		"--root=/r kill name 9":       true,
		"--log f --log-format json create --bundle b --pid-file p id": true,
		"--systemd-cgroup ps id":                   true,
		"create -b dir id":                         true,
		"create --pid-file p id":                   true,
		"run --bundle dir id":                      true,
		"exec --process p --pid-file f -d id":      true,
		"exec -d -p p id":                          true,
		"state id":                                 true,
		"delete -f id":                             true,
		"--data-dir /x --run-dir /y state id":      true,
		"features":                                 true,
		"spec":                                     true,
		"update -r - id":                           true,
		"checkpoint id":                            true,
		"--data-dir /x --debug exec id sh -c true": true,
	} {
		if got := Wants(strings.Fields(line)); got != want {
			t.Errorf("%q: a runtime's: %t, want %t", line, got, want)
		}
	}
	if err := os.WriteFile("config.json", []byte(`{"ociVersion": "1.2.0"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if !Wants([]string{"run", "name"}) || Wants([]string{"run", "debian", "sh"}) {
		t.Error("in a bundle's directory an id alone makes a container of it, and an image with a command does not")
	}
}

func TestIDs(t *testing.T) {
	for id, ok := range map[string]bool{"a": true, "a+b_c-d.e": true, "": false, ".": false, "..": false, "a/b": false, "a b": false,
		strings.Repeat("x", 1025): false} {
		if err := checkID(id); (err == nil) != ok {
			t.Errorf("id %.20q: %v", id, err)
		}
	}
}

func TestSignals(t *testing.T) {
	for name, want := range map[string]int{"9": 9, "KILL": 9, "SIGTERM": 15, "term": 15, "0": 0} {
		if got, err := parseSignal(name); err != nil || int(got) != want {
			t.Errorf("%s: %d, %v", name, got, err)
		}
	}
	for _, name := range []string{"NOPE", "65", "-1", ""} {
		if _, err := parseSignal(name); err == nil {
			t.Errorf("%q is taken for a signal", name)
		}
	}
}
