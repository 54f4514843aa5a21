//go:build e2e

package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/test/harness"
)

// Command prepares a program that is to run on the host. The end of the context is the end of all that it has started in its process group.
func (h *Host) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	inside := []string{"-t", strconv.Itoa(h.Pid), "-m", "-u", "-i", "-n", "-p", "-C", "--", name}
	cmd := exec.CommandContext(ctx, "nsenter", append(inside, args...)...)
	cmd.Dir = "/"
	// What runs in another pid namespace is a child of nsenter's, which outlives it, and would hold its output open.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	return cmd
}

// Run runs a program on the host and returns its standard output.
func (h *Host) Run(name string, args ...string) (string, error) {
	h.t.Helper()
	r := h.RunInput(nil, name, args...)
	if r.Code != 0 {
		return r.Stdout, fmt.Errorf("%s %s: exit code %d: %s%s", name, strings.Join(args, " "), r.Code, r.Stdout, r.Stderr)
	}
	return r.Stdout, nil
}

// RunInput runs a program on the host with a standard input and returns how it ended.
func (h *Host) RunInput(stdin io.Reader, name string, args ...string) Result {
	h.t.Helper()
	return h.run(stdin, func(ctx context.Context) *exec.Cmd { return h.Command(ctx, name, args...) })
}

// Result is how a command ended.
type Result struct {
	Stdout, Stderr string
	Code           int
}

// run runs a command to its end. One that does not end in time fails the test. What it hangs on mostly holds up all that would follow, and
// so nothing does: the suite is to end, and to tell.
func (h *Host) run(stdin io.Reader, prepare func(context.Context) *exec.Cmd) Result {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), harness.Patience)
	defer cancel()
	cmd := prepare(ctx)
	if h.hung.Load() {
		h.t.Fatalf("%s: not run, since another command has hung before", strings.Join(cmd.Args, " "))
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &stdout, &stderr
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	if ctx.Err() != nil {
		h.t.Errorf("%s has not ended within %s\nstdout: %.2000s\nstderr: %.8000s", strings.Join(cmd.Args, " "), harness.Patience,
			stdout.String(), stderr.String())
		if !h.hung.Swap(true) {
			h.t.Logf("the host at that moment:\n%s", h.evidence())
		}
	} else if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) {
		h.t.Fatalf("%s: %v", strings.Join(cmd.Args, " "), err)
	}
	return Result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// evidence are the host's processes, with what each waits for in the kernel, and the ends of the monitors' logs.
func (h *Host) evidence() string {
	var b strings.Builder
	for pid, command := range h.Processes() {
		wait, _ := os.ReadFile(fmt.Sprintf("/proc/%d/wchan", pid))
		fmt.Fprintf(&b, "process %d, in %s: %.300s\n", pid, wait, command)
	}
	logs, _ := filepath.Glob(filepath.Join(h.RunCVMDir(), "data", "containers", "*", "monitor.log"))
	for _, path := range logs {
		text, _ := os.ReadFile(path)
		fmt.Fprintf(&b, "%s:\n%s\n", path, text[max(0, len(text)-2000):])
	}
	if h.witness != nil {
		b.WriteString(h.witness())
	}
	return b.String()
}

// NetworkOf is what the kernel says of the networks of the host and of one of its containers, for who looks for what was lost.
func (e *Engine) NetworkOf(container string) string {
	e.t.Helper()
	const look = `ip -s link; ip address; ip -s neigh; ip route; ss -s
for i in $(ip -o link | sed 's/^[0-9]*: \([^:@]*\).*/\1/'); do echo "$i:"; tc -s filter show dev $i ingress; done`
	var b strings.Builder
	for _, pid := range []int{e.Pid, e.ContainerPid(container)} {
		out, err := exec.Command("nsenter", "-t", strconv.Itoa(pid), "-n", "sh", "-c", look).CombinedOutput()
		fmt.Fprintf(&b, "process %d: %v\n%s", pid, err, out)
	}
	return b.String()
}
