package ocicli

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/runcvm/runcvm/internal/sandbox"
)

// signs are what engines look for, without regard to case.
var signs = []string{
	syscall.EACCES.Error(), syscall.EISDIR.Error(), syscall.ENOTDIR.Error(), syscall.ENOENT.Error(), syscall.EPERM.Error(),
	"executable file not found", "system cannot find the file specified", "failed to run runc create/exec call", "open executable",
}

// sign is one that a text has; empty where it has none.
func sign(text string) string {
	for _, s := range signs {
		if strings.Contains(strings.ToLower(text), s) {
			return s
		}
	}
	return ""
}

func TestOnlyTheContainersProgramIsTakenForIt(t *testing.T) {
	path := func(err error) error { return &fs.PathError{Op: "open", Path: "/some/path", Err: err} }
	for _, c := range []struct {
		name string
		err  error
		want []string // nil: the text as it is
	}{
		{"missing file", path(syscall.ENOENT), []string{"/some/path", "ENOENT"}},
		{"no access", path(syscall.EACCES), []string{"/some/path", "EACCES"}},
		{"not permitted", path(syscall.EPERM), []string{"/some/path", "EPERM"}},
		{"a directory", path(syscall.EISDIR), []string{"/some/path", "EISDIR"}},
		{"no directory", path(syscall.ENOTDIR), []string{"/some/path", "ENOTDIR"}},
		{"missing program", &exec.Error{Name: "qemu-x", Err: exec.ErrNotFound}, []string{"qemu-x", "program not found"}},
		{"errnos only where there are some", &fs.PathError{Op: "open", Path: "/no such file or directory", Err: syscall.ENOENT},
			[]string{"open /no\u00a0such file or directory: is not there (ENOENT)"}},
		{"joined", errors.Join(path(syscall.ENOENT), fmt.Errorf("x: %w; %w", path(syscall.EACCES), errors.New("no, it is a directory"))),
			[]string{"open /some/path: is not there (ENOENT)\nx: open /some/path: access denied (EACCES); no, it is\u00a0a directory"}},
		{"names", errors.New("mount /srv/open executables on /var/lib/Permission denied/x"),
			[]string{"mount /srv/open\u00a0executables on /var/lib/Permission\u00a0denied/x"}},
		{"one in another", errors.New("open executable file not found"), []string{"open\u00a0executable\u00a0file not found"}},
		{"the hook's output", runHooks(t.Context(), "prestart", []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "echo this Is a directory; exit 1"}}}, &specs.State{}),
			[]string{"this Is\u00a0a directory"}},
		{"several, as others write them", errors.New("cp: No such file or directory\nmv: Permission denied"), []string{"cp: ", "\nmv: "}},
		{"what other runtimes say", errors.New("Failed to run runc create/exec call: open executable: system cannot find the file specified"), []string{"runc"}},
		{"the hook's program", runHooks(t.Context(), "prestart", []specs.Hook{{Path: "/no/such/hook"}}, &specs.State{}), []string{"prestart hook #0", "/no/such/hook"}},
		{"the boot", processError("the container", "open /vmlinux: no such file or directory", 125), []string{"unable to start the container", "/vmlinux"}},
		{"a further process", processError("the process", "its terminal: permission denied", 125), []string{"unable to start the process: its terminal"}},
		{"the container's program", processError("the container", `exec: "x": executable file not found in $PATH`, 127), nil},
		{"the container's program, with what came after", errors.Join(processError("the process", "x: permission denied", 126), path(syscall.ENOENT)), nil},
		{"something else", errNotExist, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := failure(c.err)
			if c.want == nil {
				if got != c.err.Error() {
					t.Errorf("%q has become %q", c.err, got)
				}
				return
			}
			if s := sign(got); s != "" || sign(c.err.Error()) == "" && c.name != "the boot" {
				t.Errorf("%q has %q", got, s)
			}
			for _, w := range c.want {
				if !strings.Contains(got, w) {
					t.Errorf("%q has no %q", got, w)
				}
			}
		})
	}
	program := new(sandbox.ExecError)
	if err := fmt.Errorf("exec failed: %w", processError("the process", "x", 127)); !errors.As(err, &program) || program.Code != 127 || !strings.Contains(program.Message, "container process: x") {
		t.Errorf("%v", err)
	}
}

// TestFaultsOfTheCommandLineAreInTheLog has what is found out before a verb runs, where containerd's shim looks for it.
func TestFaultsOfTheCommandLineAreInTheLog(t *testing.T) {
	for name, args := range map[string][]string{
		"unknown flag":      {"create", "--nonsense", "x"},
		"bad value":         {"create", "--preserve-fds", "many", "x"},
		"no id":             {"create"},
		"unknown verb":      {"frobnicate"},
		"bad global flag":   {"--systemd-cgroup=maybe", "create", "x"},
		"bad root":          {"--root", "/", "create", "x"},
		"no such bundle":    {"create", "--bundle", "/no/such/bundle", "x"},
		"no such container": {"start", "x"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			log := filepath.Join(dir, "log.json")
			global := []string{"--log", log, "--log-format", "json", "--data-dir", filepath.Join(dir, "data"), "--run-dir", filepath.Join(dir, "run")}
			if code := Execute(time.Now(), append(global, args...)); code != 1 {
				t.Errorf("exit code %d", code)
			}
			text, err := os.ReadFile(log)
			if err != nil {
				t.Fatal(err)
			}
			var line struct{ Level, Msg string }
			if err := json.Unmarshal(text, &line); err != nil || line.Level != "error" || line.Msg == "" || sign(line.Msg) != "" {
				t.Errorf("%v: %s", err, text)
			}
		})
	}
	t.Run("no log", func(t *testing.T) {
		if code := Execute(time.Now(), []string{"--log", "/no/such/dir/log", "create", "--nonsense", "x"}); code != 1 {
			t.Errorf("exit code %d", code)
		}
	})
}

// TestAPersonReadsAnErrorAsItIs has an error with no log but a terminal.
func TestAPersonReadsAnErrorAsItIs(t *testing.T) {
	master, slave, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	was := os.Stderr
	defer func() { os.Stderr = was }()
	os.Stderr = slave
	code := Execute(time.Now(), []string{"create", "--preserve-fds", syscall.EISDIR.Error(), "x"})
	slave.Close()
	text, _ := bufio.NewReader(master).ReadString('\n')
	if code != 1 || !strings.Contains(text, syscall.EISDIR.Error()) {
		t.Errorf("%d: %q", code, text)
	}
}
