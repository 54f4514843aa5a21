package vmm

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/runcvm/runcvm/test/vmm/tinyguest"
)

const (
	// upTimeout bounds a VMM's start until its socket answers, stepTimeout one request (a boot under emulation within
	// emulation included).
	upTimeout   = 20 * time.Second
	stepTimeout = 60 * time.Second
)

// Process is a VMM with an API socket, started for a test.
type Process struct {
	Socket string
	cmd    *exec.Cmd
	output *output
	exited chan struct{}
	err    error
}

// StartProcess runs the VMM at binary with its socket in dir and waits until it takes connections.
func StartProcess(ctx context.Context, binary, dir string, args ...string) (*Process, error) {
	p := &Process{Socket: filepath.Join(dir, "api.sock"), output: &output{}, exited: make(chan struct{})}
	p.cmd = exec.CommandContext(ctx, binary, append([]string{"--api-sock", p.Socket}, args...)...)
	p.cmd.Stdout, p.cmd.Stderr = p.output, p.output
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.exited)
	}()
	deadline := time.After(upTimeout)
	for {
		conn, err := net.Dial("unix", p.Socket)
		if err == nil {
			return p, conn.Close()
		}
		select {
		case <-p.exited:
			return nil, fmt.Errorf("%s ended at once: %w", binary, errors.Join(p.err, errors.New(p.output.String())))
		case <-deadline:
			return nil, errors.Join(fmt.Errorf("%s does not listen: %w", binary, err), p.Stop())
		case <-time.After(time.Millisecond):
		}
	}
}

// Output is what the VMM has written to its standard output and error, the guest's console among it.
func (p *Process) Output() string { return p.output.String() }

// output is a buffer that may be read while it is written to.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// Stop kills the VMM and waits for its end.
func (p *Process) Stop() error {
	err := p.cmd.Process.Kill()
	<-p.exited
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

// Version asks a VMM binary for its version, like 1.16.1.
func Version(ctx context.Context, binary string) (string, error) {
	out, err := exec.CommandContext(ctx, binary, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("%s --version: %w", binary, err)
	}
	line, _, _ := strings.Cut(string(out), "\n")
	version, ok := strings.CutPrefix(line, "Firecracker v")
	if !ok {
		return "", fmt.Errorf("%s --version says %q", binary, line)
	}
	return version, nil
}

// prepare puts the files into dir that cases refer to.
func prepare(dir string) error {
	if err := tinyguest.Write(filepath.Join(dir, "vmlinux")); err != nil {
		return err
	}
	for name, size := range map[string]int64{"initrd": 4096, "disk": 4 << 20, "disk2": 8 << 20, "disk3": 1 << 20} {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
			return err
		}
	}
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "text"), []byte("not a kernel\n"), 0o644),
		os.Mkdir(filepath.Join(dir, "folder"), 0o755))
}

// Run plays a case against a fresh VMM.
func Run(ctx context.Context, binary string, c Case) (_ []Answer, err error) {
	at, err := newPlace()
	if err != nil {
		return nil, err
	}
	dir := at.dir
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	// Firecracker v1.13 wants the log to exist.
	log := filepath.Join(dir, "log")
	if err := os.WriteFile(log, nil, 0o644); err != nil {
		return nil, err
	}
	p, err := StartProcess(ctx, binary, dir, "--log-path", log, "--no-seccomp")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.Stop()) }()
	var answers []Answer
	for k, s := range c.Steps {
		a, err := send(p.Socket, s, at)
		if err != nil {
			said, _ := os.ReadFile(log) // for the error only
			return nil, fmt.Errorf("step %d, %s: %w\n%s%s", k, s.describe(), err, p.output, said)
		}
		if c.Boots && s.Path == "/vm/config" {
			a.Body = sortDevices(a.Body)
		}
		answers = append(answers, a)
	}
	return answers, nil
}

// send makes one request on a connection of its own.
func send(socket string, s Step, at place) (Answer, error) {
	a := Answer{Request: s.describe()}
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return a, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(stepTimeout)); err != nil {
		return a, err
	}
	if _, err := conn.Write(s.request(at)); err != nil {
		return a, err
	}
	answer, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: s.Method})
	if err != nil {
		return a, fmt.Errorf("read the answer: %w", err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return a, fmt.Errorf("read the answer's body: %w", err)
	}
	a.Status, a.Deprecated = answer.StatusCode, answer.Header.Get("Deprecation") != ""
	a.Body, err = normalise(body, at)
	return a, err
}
