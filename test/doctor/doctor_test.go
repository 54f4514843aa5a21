//go:build e2e

// Package doctor runs runcvm doctor on hosts that lack something: a bare Debian, and a complete host from which one thing after
// the other is taken away. It boots no guest.
package doctor

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/runcvm/runcvm/test/harness"
)

// report is what doctor --json prints.
type report struct {
	OK       bool   `json:"ok"`
	Emulated bool   `json:"emulated"`
	Checks   []line `json:"checks"`
}

type line struct {
	Name   string `json:"name"`
	Status string `json:"status"`
	Needed bool   `json:"needed"`
	Detail string `json:"detail"`
	Remedy string `json:"remedy"`
}

func (r report) line(t *testing.T, name string) line {
	t.Helper()
	for _, l := range r.Checks {
		if l.Name == name {
			return l
		}
	}
	t.Fatalf("doctor says nothing of %s", name)
	return line{}
}

// missing are the names of what is not there, or of that only which is needed.
func (r report) missing(needed bool) []string {
	var names []string
	for _, l := range r.Checks {
		if l.Status == "missing" && (l.Needed || !needed) {
			names = append(names, l.Name)
		}
	}
	return names
}

// run runs a shell script in a mount namespace of its own, which ends in doctor, and returns its output and exit code.
func run(t *testing.T, script string, env ...string) (string, int) {
	t.Helper()
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-euc", script)
	cmd.Env = env
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if stdout.Len() == 0 {
		t.Fatalf("doctor prints nothing: %v: %s", err, stderr.String())
	}
	return stdout.String(), cmd.ProcessState.ExitCode()
}

func parse(t *testing.T, text string, code int) report {
	t.Helper()
	var r report
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	if r.OK != (code == 0) || r.OK != (len(r.missing(true)) == 0) {
		t.Errorf("ok is %t, the exit code %d, needed and missing are %v", r.OK, code, r.missing(true))
	}
	for _, l := range r.Checks {
		engine := slices.Contains([]string{"Docker", "Podman", "containerd"}, l.Name)
		if l.Detail == "" || (l.Status == "missing" || l.Status == "warning") && l.Remedy == "" && !engine {
			t.Errorf("%+v says too little", l)
		}
	}
	return r
}

func TestABareDebianIsToldOfEverythingThatIsMissing(t *testing.T) {
	root := t.TempDir()
	harness.Unpack(t, os.Getenv("RUNCVM_TEST_IMAGE"), root)
	copyFile(t, filepath.Join(harness.Bin(t), "runcvm"), filepath.Join(root, "usr/local/bin/runcvm"))
	const script = `
mount -t proc proc "$ROOT/proc"
mount -t sysfs sysfs "$ROOT/sys"
exec chroot "$ROOT" /usr/local/bin/runcvm doctor $ARGS`
	env := func(args string) []string {
		return []string{"ROOT=" + root, "ARGS=" + args, "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	}
	remedies := map[string]string{
		"Firecracker": "runcvm firecracker install", "jailer": "runcvm firecracker install", "firecracker-qemu": "make install",
		"QEMU": "apt-get install qemu-system-x86", "guest kernel": "apt-get install linux-image-cloud-amd64", "guest agent": "runcvm-guest",
		"crun": "apt-get install crun", "CNI plugins": "apt-get install containernetworking-plugins",
		"KVM": "", "tun": "/dev/net/tun", "fuse": "/dev/fuse",
	}
	check := func() string {
		t.Helper()
		text, code := run(t, script, env("--json")...)
		r := parse(t, text, code)
		if code != 1 {
			t.Errorf("exit code %d", code)
		}
		for name, remedy := range remedies {
			if l := r.line(t, name); l.Status != "missing" || !strings.Contains(l.Remedy, remedy) {
				t.Errorf("%+v, want it missing, with the remedy %q", l, remedy)
			}
		}
		for _, name := range r.missing(true) {
			if _, ok := remedies[name]; !ok {
				t.Errorf("%+v, which is there", r.line(t, name))
			}
		}
		return text
	}
	check()
	// The image has e2fsprogs, other bare systems do not.
	for _, program := range []string{"mke2fs", "e2fsck", "debugfs"} {
		for _, dir := range []string{"usr/sbin", "usr/bin"} {
			if err := os.Remove(filepath.Join(root, dir, program)); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
		}
		remedies[program] = "apt-get install e2fsprogs"
	}
	check()
	text, _ := run(t, script, env("")...)
	for _, want := range []string{"\nmissing   mke2fs ", "-> apt-get install e2fsprogs\n", "\noptional  Firecracker ", "\nContainers cannot run here"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, b, 0o755); err != nil {
		t.Fatal(err)
	}
}
