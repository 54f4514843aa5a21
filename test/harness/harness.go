//go:build e2e

// Package harness runs the built programs for the e2e suites, on data and run directories of a test's own, and checks that
// nothing is left when a test ends.
//
// The environment says where things are: RUNCVM_BIN has the programs, RUNCVM_TEST_IMAGE is the OCI layout of a Debian image,
// RUNCVM_TEST_TOOLS_IMAGE of one with further programs, RUNCVM_VMM the VMM (default: firecracker-qemu of RUNCVM_BIN). What is
// missing fails the suite, it never skips.
package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// Image is the name under which the Debian image is imported.
const Image = "debian:12"

// ToolsImage is the name under which Tools imports the Debian image with further programs.
const ToolsImage = "debian-tools:12"

// Tools imports the image with further programs (TOOLS_PACKAGES of the Makefile), once a suite, and returns its name.
func (h *Host) Tools() string {
	h.t.Helper()
	shared.tools.Do(func() {
		layout := os.Getenv("RUNCVM_TEST_TOOLS_IMAGE")
		if layout == "" {
			shared.toolsErr = errors.New("RUNCVM_TEST_TOOLS_IMAGE is not set: run the e2e suites by make test-e2e")
		} else if r := h.Run("import", layout, ToolsImage); r.Code != 0 {
			shared.toolsErr = fmt.Errorf("import: %s", r.Stderr)
		}
	})
	if shared.toolsErr != nil {
		h.t.Fatal(shared.toolsErr)
	}
	return ToolsImage
}

// Bin is the directory of the programs.
func Bin(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("RUNCVM_BIN")
	if dir == "" {
		t.Fatal("RUNCVM_BIN is not set: run the e2e suites by make test-e2e")
	}
	return dir
}

// Host is a set of directories in which runcvm runs.
type Host struct {
	t testing.TB
	// DataDir and RunDir are runcvm's.
	DataDir, RunDir string
	// Env is added to the environment of each command.
	Env []string
}

// shared is the data directory with the imported image and the caches that the hosts of one suite have in common: an
// import and a kernel's unpacking a test would be most of a suite's time.
var shared struct {
	once sync.Once
	dir  string
	err  error

	tools    sync.Once
	toolsErr error
}

// Main runs a suite and removes what its hosts shared. Call it from TestMain.
func Main(m *testing.M) {
	code := m.Run()
	if shared.dir != "" {
		_ = os.RemoveAll(shared.dir)
	}
	os.Exit(code)
}

// New returns a host with the Debian image. The test fails if a process, mount or file of it is left at its end.
func New(t testing.TB) *Host {
	t.Helper()
	shared.once.Do(func() {
		if shared.dir, shared.err = os.MkdirTemp("", "runcvm-e2e-"); shared.err != nil {
			return
		}
		h := &Host{t: t, DataDir: filepath.Join(shared.dir, "data"), RunDir: filepath.Join(shared.dir, "run")}
		layout := os.Getenv("RUNCVM_TEST_IMAGE")
		if layout == "" {
			shared.err = errors.New("RUNCVM_TEST_IMAGE is not set: run the e2e suites by make test-e2e")
			return
		}
		if r := h.Run("import", layout, Image); r.Code != 0 {
			shared.err = fmt.Errorf("import: %s", r.Stderr)
		}
	})
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	h := &Host{t: t, DataDir: filepath.Join(shared.dir, "data"), RunDir: filepath.Join(shared.dir, "run")}
	t.Cleanup(h.checkLeaks)
	return h
}

// NewEmpty returns a host without images and with nothing in its caches.
func NewEmpty(t testing.TB) *Host {
	t.Helper()
	dir := t.TempDir()
	h := &Host{t: t, DataDir: filepath.Join(dir, "data"), RunDir: filepath.Join(dir, "run")}
	t.Cleanup(h.checkLeaks)
	return h
}

// Result is how a command ended.
type Result struct {
	Stdout, Stderr string
	Code           int
}

// limit bounds one command: far more than any takes on a loaded machine, also where that is emulated itself.
const limit = 15 * time.Minute

// Command prepares runcvm with the arguments.
func (h *Host) Command(args ...string) *exec.Cmd {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	h.t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, filepath.Join(Bin(h.t), "runcvm"), args...)
	cmd.Env = append(os.Environ(), "RUNCVM_CONFIG=/dev/null", "RUNCVM_DATA_DIR="+h.DataDir, "RUNCVM_RUN_DIR="+h.RunDir)
	if os.Getenv("RUNCVM_VMM") == "" {
		cmd.Env = append(cmd.Env, "RUNCVM_VMM="+filepath.Join(Bin(h.t), "firecracker-qemu"))
	}
	cmd.Env = append(cmd.Env, h.Env...)
	return cmd
}

// Run runs runcvm with the arguments and without standard input.
func (h *Host) Run(args ...string) Result {
	h.t.Helper()
	return h.RunInput(nil, args...)
}

// RunInput is Run with a standard input.
func (h *Host) RunInput(stdin io.Reader, args ...string) Result {
	h.t.Helper()
	cmd := h.Command(args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &stdout, &stderr
	err := cmd.Run()
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
		h.t.Fatalf("runcvm %s: %v", strings.Join(args, " "), err)
	}
	return Result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// MustRun is Run that fails the test unless the command succeeds without a word on standard error.
func (h *Host) MustRun(args ...string) string {
	h.t.Helper()
	r := h.Run(args...)
	if r.Code != 0 || r.Stderr != "" {
		h.t.Fatalf("runcvm %.200s: exit code %d\nstdout: %.2000s\nstderr: %.8000s", strings.Join(args, " "), r.Code, r.Stdout, r.Stderr)
	}
	return r.Stdout
}

// Eventually waits until the condition holds, or fails the test with what it said last.
func Eventually(t testing.TB, within time.Duration, condition func() error) {
	t.Helper()
	deadline := time.Now().Add(within)
	for {
		err := condition()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %v", within, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// For returns the same host for a subtest, whose failures are then its own. What is left is looked for at the end of h's test.
func (h *Host) For(t testing.TB) *Host {
	return &Host{t: t, DataDir: h.DataDir, RunDir: h.RunDir, Env: h.Env}
}

// ExpectRun fails the test unless the command ends with this code and output, and without a word on standard error.
func (h *Host) ExpectRun(t testing.TB, code int, stdout string, args ...string) {
	t.Helper()
	if r := h.For(t).Run(args...); r.Code != code || r.Stdout != stdout || r.Stderr != "" {
		t.Fatalf("runcvm %.200s: exit code %d, want %d\nstdout: %.2000s\nwant: %.2000s\nstderr: %.8000s", strings.Join(args, " "), r.Code,
			code, r.Stdout, stdout, r.Stderr)
	}
}
