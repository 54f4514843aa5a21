package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// engineVerb runs a verb of a new app.
func engineVerb(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	t.Setenv("RUNCVM_CONFIG", os.DevNull)
	var out, errOut bytes.Buffer
	a := &app{stdout: &out, stderr: &errOut, flags: map[string]*string{}}
	root := a.root()
	root.SetArgs(args)
	root.SetErr(&errOut)
	err = root.Execute()
	return out.String(), errOut.String(), err
}

func TestInstallAndUninstallSayWhatTheyDo(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// A link by which $PATH finds this program is what engines are told of.
	dir := t.TempDir()
	program := filepath.Join(dir, "runcvm")
	if err := os.Symlink(self, program); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir)
	for engine, words := range map[string][2]string{
		"docker": {"systemctl reload docker", "docker run --runtime vm IMAGE"},
		"podman": {"at its next command", "podman --runtime vm run IMAGE"},
	} {
		file := filepath.Join(dir, engine)
		flags := []string{engine, "--config", file, "--name", "vm"}
		out, _, err := engineVerb(t, append([]string{"install", "--dry-run"}, flags...)...)
		if _, statErr := os.Stat(file); err != nil || !strings.Contains(out, "+++ "+file) || !strings.Contains(out, program) || statErr == nil {
			t.Errorf("a dry run: %v, %q", err, out)
		}
		for _, want := range []string{"the runtime vm is " + program + "\n", "is " + program + " already"} {
			out, _, err = engineVerb(t, append([]string{"install"}, flags...)...)
			if err != nil || !strings.Contains(out, want) || !strings.Contains(out, words[0]) || !strings.Contains(out, words[1]) {
				t.Errorf("install: %v, %q, want %q", err, out, want)
			}
		}
		out, _, err = engineVerb(t, append([]string{"uninstall", "--dry-run"}, flags...)...)
		if _, statErr := os.Stat(file); err != nil || !strings.Contains(out, "--- "+file) || statErr != nil {
			t.Errorf("a dry run: %v, %q, %v", err, out, statErr)
		}
		out, _, err = engineVerb(t, append([]string{"uninstall"}, flags...)...)
		if _, statErr := os.Stat(file); err != nil || !strings.Contains(out, "the runtime vm is out") || statErr == nil {
			t.Errorf("uninstall: %v, %q, %v", err, out, statErr)
		}
		_, errOut, err := engineVerb(t, append([]string{"uninstall"}, flags...)...)
		if err != nil || !strings.Contains(errOut, "is not in the configuration of "+engine) {
			t.Errorf("a second uninstall: %v, %q", err, errOut)
		}
	}
	if _, _, err := engineVerb(t, "install", "lxc"); err == nil || !strings.Contains(err.Error(), "docker and podman") {
		t.Errorf("an engine that is not known: %v", err)
	}
}
