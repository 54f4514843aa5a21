//go:build e2e

// Package oci tests the OCI command line on real guests, as an engine uses it. A boot is the expensive part, so each test has one
// container for many checks.
package oci

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/test/harness"
)

// TestMain makes the suite a subreaper, as an engine's shim is: the containers' monitors become its children.
func TestMain(m *testing.M) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	harness.Main(m)
}

// members are what of the image a shell needs.
var members = []string{"bin", "lib", "lib64", "usr/bin/sh", "usr/bin/dash", "usr/bin/sleep", "usr/lib64/ld-linux-x86-64.so.2",
	"usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2", "usr/lib/x86_64-linux-gnu/libc.so.6"}

// bundle makes a bundle whose root has the suite's shell, and returns its directory.
func bundle(t *testing.T, h *harness.Host, script string, change func(*specs.Spec)) string {
	t.Helper()
	dir := t.TempDir()
	root := filepath.Join(dir, "rootfs")
	for _, d := range []string{"proc", "sys", "dev", "etc", "tmp"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	harness.Unpack(t, os.Getenv("RUNCVM_TEST_IMAGE"), root, members...)
	if r := h.Run("spec", "--bundle", dir); r.Code != 0 {
		t.Fatalf("spec: %s", r.Stderr)
	}
	path := filepath.Join(dir, "config.json")
	text, err := os.ReadFile(path)
	spec := new(specs.Spec)
	if err == nil {
		err = json.Unmarshal(text, spec)
	}
	if err != nil {
		t.Fatal(err)
	}
	spec.Process.Terminal, spec.Root.Readonly = false, false
	spec.Process.Args = []string{"sh", "-c", script}
	spec.Linux.CgroupsPath = "/runcvm-test/" + filepath.Base(dir) + strconv.Itoa(os.Getpid())
	if change != nil {
		change(spec)
	}
	if text, err = json.Marshal(spec); err == nil {
		err = os.WriteFile(path, text, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// runtime runs a verb with a root, and returns what it said.
func runtime(h *harness.Host, root string, args ...string) harness.Result {
	return h.Run(append([]string{"--root", root}, args...)...)
}

// state is what the verb state prints.
func state(t *testing.T, h *harness.Host, root, id string) (s struct {
	specs.State
	Rootfs string
}) {
	t.Helper()
	r := runtime(h, root, "state", id)
	if err := json.Unmarshal([]byte(r.Stdout), &s); err != nil {
		t.Fatalf("state: %v\n%s%s", err, r.Stdout, r.Stderr)
	}
	return s
}

// create makes a container with standard files of its own, and returns its process id and its output.
func create(t *testing.T, h *harness.Host, root, dir, id, input string) (pid int, stdout, stderr *os.File) {
	t.Helper()
	files := t.TempDir()
	open := func(name string) *os.File {
		f, err := os.Create(filepath.Join(files, name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	stdin, stdout, stderr := open("stdin"), open("stdout"), open("stderr")
	if _, err := stdin.WriteString(input); err != nil {
		t.Fatal(err)
	}
	if _, err := stdin.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	pidFile := filepath.Join(files, "pid")
	cmd := h.Command("--root", root, "--log", filepath.Join(files, "log"), "--log-format", "json", "create", "--bundle", dir,
		"--pid-file", pidFile, id)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, stderr
	if err := cmd.Run(); err != nil {
		text, _ := os.ReadFile(filepath.Join(files, "log"))
		t.Fatalf("create: %v\n%s", err, text)
	}
	text, err := os.ReadFile(pidFile)
	if err == nil {
		pid, err = strconv.Atoi(string(text))
	}
	if err != nil {
		t.Fatal(err)
	}
	return pid, stdout, stderr
}

// read is the content of a file that others write.
func read(t *testing.T, f *os.File) string {
	t.Helper()
	text, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// exited waits for a process that has become a child of this one, and returns its exit code.
func exited(t *testing.T, pid int) int {
	t.Helper()
	done := make(chan int, 1)
	go func() {
		var ws syscall.WaitStatus
		for {
			_, err := syscall.Wait4(pid, &ws, 0, nil)
			if errors.Is(err, syscall.EINTR) {
				continue
			}
			if err != nil {
				done <- -1
				return
			}
			break
		}
		if ws.Signaled() {
			done <- 128 + int(ws.Signal())
			return
		}
		done <- ws.ExitStatus()
	}()
	select {
	case code := <-done:
		return code
	case <-time.After(2 * time.Minute):
		t.Fatalf("process %d does not end, or is no child of the caller", pid)
		return -1
	}
}

func TestAContainersLife(t *testing.T) {
	h := harness.New(t)
	root := t.TempDir()
	hooked := filepath.Join(t.TempDir(), "hooks")
	hook := specs.Hook{Path: "/bin/sh", Args: []string{"sh", "-c", "cat >> " + hooked + "; echo >> " + hooked}}
	dir := bundle(t, h, `read x; echo "got $x"; echo err >&2; trap "echo term; exit 3" TERM; echo ready; while :; do sleep 1; done`,
		func(s *specs.Spec) {
			s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{hook}, Poststart: []specs.Hook{hook}, Poststop: []specs.Hook{hook}}
			s.Annotations = map[string]string{"key": "value"}
		})
	pid, stdout, stderr := create(t, h, root, dir, "life", "input\n")
	if s := state(t, h, root, "life"); s.Status != specs.StateCreated || s.Pid != pid || s.ID != "life" || s.Bundle != dir ||
		s.Annotations["key"] != "value" || s.Rootfs != filepath.Join(dir, "rootfs") {
		t.Errorf("after create: %+v", s)
	}
	for args, want := range map[string]string{
		"create --bundle " + dir + " life": "container with given ID already exists",
		"exec life sh":                     "cannot exec in a container that is created",
		"resume life":                      "container not paused",
	} {
		if r := runtime(h, root, strings.Fields(args)...); r.Code == 0 || !strings.Contains(r.Stderr, want) {
			t.Errorf("%s: exit code %d, %s", args, r.Code, r.Stderr)
		}
	}
	if r := runtime(h, t.TempDir(), "state", "life"); r.Code != 1 || !strings.Contains(r.Stderr, "container does not exist") {
		t.Errorf("in another root: exit code %d, %s", r.Code, r.Stderr)
	}
	if r := runtime(h, root, "start", "life"); r.Code != 0 {
		t.Fatalf("start: %s", r.Stderr)
	}
	harness.Eventually(t, time.Minute, func() error {
		if out := read(t, stdout); out != "got input\nready\n" {
			return fmt.Errorf("standard output: %q", out)
		}
		return nil
	})
	if out := read(t, stderr); out != "err\n" {
		t.Errorf("standard error: %q", out)
	}
	if r := h.Run("ps"); !strings.Contains(r.Stdout, "life") {
		t.Errorf("ps does not list it: %s", r.Stdout)
	}
	execs(t, h, root)
	if r := runtime(h, root, "delete", "life"); r.Code != 1 || !strings.Contains(r.Stderr, "cannot delete container life that is not stopped: running") {
		t.Errorf("delete: exit code %d, %s", r.Code, r.Stderr)
	}
	// A signal to the process of the pid file is one to the container's.
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := exited(t, pid); code != 3 {
		t.Errorf("exit code %d, want 3", code)
	}
	if out := read(t, stdout); out != "got input\nready\nterm\n" {
		t.Errorf("standard output: %q", out)
	}
	if s := state(t, h, root, "life"); s.Status != specs.StateStopped || s.Pid != 0 {
		t.Errorf("after the end: %+v", s)
	}
	if r := runtime(h, root, "kill", "life", "KILL"); r.Code != 1 || !strings.Contains(r.Stderr, "container not running") {
		t.Errorf("kill: exit code %d, %s", r.Code, r.Stderr)
	}
	if r := runtime(h, root, "delete", "life"); r.Code != 0 {
		t.Errorf("delete: %s", r.Stderr)
	}
	if r := runtime(h, root, "delete", "--force", "life"); r.Code != 0 {
		t.Errorf("delete --force of one that is gone: %s", r.Stderr)
	}
	checkHooks(t, hooked, pid)
}

// execs runs further processes in the container.
func execs(t *testing.T, h *harness.Host, root string) {
	t.Helper()
	if r := runtime(h, root, "exec", "life", "sh", "-c", "echo in; echo err >&2; exit 5"); r.Code != 5 || r.Stdout != "in\n" || r.Stderr != "err\n" {
		t.Errorf("exec: exit code %d, %q, %q", r.Code, r.Stdout, r.Stderr)
	}
	if r := runtime(h, root, "exec", "life", "nope"); r.Code != 255 || !strings.Contains(r.Stderr, `executable file not found in $PATH`) {
		t.Errorf("exec of nothing: exit code %d, %s", r.Code, r.Stderr)
	}
	pidFile := filepath.Join(t.TempDir(), "pid")
	process := filepath.Join(t.TempDir(), "process.json")
	text, err := json.Marshal(specs.Process{
		Args: []string{"sh", "-c", `trap "exit 4" USR1; echo ready; while :; do sleep 1; done`}, Cwd: "/", Env: []string{"PATH=/bin"},
		User: specs.User{UID: 1000, GID: 1000},
	})
	if err == nil {
		err = os.WriteFile(process, text, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	cmd := h.Command("--root", root, "exec", "--process", process, "--pid-file", pidFile, "--detach", "life")
	var stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = writer, os.Stderr
	err = cmd.Run()
	writer.Close()
	if err != nil {
		t.Fatalf("exec --detach: %v: %s", err, stderr.String())
	}
	ready := make([]byte, len("ready\n"))
	if _, err := io.ReadFull(reader, ready); err != nil || string(ready) != "ready\n" {
		t.Errorf("exec --detach: %q, %v", ready, err)
	}
	text, err = os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	pid, _ := strconv.Atoi(string(text))
	if err := syscall.Kill(pid, syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	if code := exited(t, pid); code != 4 {
		t.Errorf("exec --detach: exit code %d, want 4", code)
	}
	if rest, err := io.ReadAll(reader); err != nil || len(rest) != 0 {
		t.Errorf("exec --detach: %q, %v after its end", rest, err)
	}
}

// checkHooks reads what the hooks were told.
func checkHooks(t *testing.T, path string, pid int) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	if len(lines) != 3 {
		t.Fatalf("the hooks were told %q", text)
	}
	for i, want := range []struct {
		status specs.ContainerState
		pid    int
	}{{specs.StateCreating, pid}, {specs.StateRunning, pid}, {specs.StateStopped, 0}} {
		var s specs.State
		if err := json.Unmarshal([]byte(lines[i]), &s); err != nil || s.Status != want.status || s.Pid != want.pid || s.ID != "life" {
			t.Errorf("hook %d was told %s (%v)", i, lines[i], err)
		}
	}
}

func TestAMissingProgramIsToldByStart(t *testing.T) {
	h := harness.New(t)
	root := t.TempDir()
	dir := bundle(t, h, "", func(s *specs.Spec) { s.Process.Args = []string{"missing"} })
	pid, _, _ := create(t, h, root, dir, "missing", "")
	if r := runtime(h, root, "start", "missing"); r.Code != 1 || !strings.Contains(r.Stderr, `exec: \"missing\": executable file not found in $PATH`) {
		t.Errorf("start: exit code %d, %s", r.Code, r.Stderr)
	}
	if code := exited(t, pid); code != 127 {
		t.Errorf("exit code %d, want 127", code)
	}
	if r := runtime(h, root, "delete", "missing"); r.Code != 0 {
		t.Errorf("delete: %s", r.Stderr)
	}
}

func TestAKilledMonitorIsAKilledContainer(t *testing.T) {
	h := harness.New(t)
	root := t.TempDir()
	dir := bundle(t, h, "while :; do sleep 1; done", nil)
	pid, _, _ := create(t, h, root, dir, "killed", "")
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if code := exited(t, pid); code != 137 {
		t.Errorf("exit code %d, want 137", code)
	}
	if s := state(t, h, root, "killed"); s.Status != specs.StateStopped || s.Pid != 0 {
		t.Errorf("state: %+v", s)
	}
	if r := runtime(h, root, "delete", "--force", "killed"); r.Code != 0 {
		t.Errorf("delete: %s", r.Stderr)
	}
}

func TestARunAloneRemovesItsContainer(t *testing.T) {
	h := harness.New(t)
	root := t.TempDir()
	dir := bundle(t, h, "echo out; exit 6", nil)
	if r := runtime(h, root, "run", "--bundle", dir, "run"); r.Code != 6 || r.Stdout != "out\n" || r.Stderr != "" {
		t.Errorf("run: exit code %d, %q, %q", r.Code, r.Stdout, r.Stderr)
	}
	if r := runtime(h, root, "list", "--quiet"); r.Code != 0 || r.Stdout != "" {
		t.Errorf("list: exit code %d, %q", r.Code, r.Stdout)
	}
}
