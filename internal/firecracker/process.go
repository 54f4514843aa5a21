package firecracker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// Options say how to run a VMM.
type Options struct {
	Path string // of the program
	ID   string // [A-Za-z0-9-]{1,64}
	// Dir becomes the VMM's working directory. The API's socket lies in it as APISocket: relative, since a Unix socket's
	// path has at most 107 bytes.
	Dir string
	// Console takes the guest's serial console, Log what the VMM writes to its standard error.
	Console, Log io.Writer
	// Timeout bounds the time from exec until the API answers: some 10 ms, much more where many VMMs start at once on a busy host.
	Timeout time.Duration
}

// APISocket is the name of the API's socket in the VMM's directory.
const APISocket = "api.sock"

// Process is a running VMM.
type Process struct {
	*Client
	cmd  *exec.Cmd
	done chan struct{}
	err  error
}

const (
	// socketPoll is the first pause between two looks for the API's socket. They grow to maxSocketPoll: the looks of many who wait would
	// take the processor from the VMMs that they wait for.
	socketPoll    = time.Millisecond
	maxSocketPoll = 64 * time.Millisecond
)

// Start runs the VMM and returns when its API answers. The working directory of the calling process must be opt.Dir: it
// reaches the sockets by their relative names as well.
func Start(ctx context.Context, opt Options) (*Process, error) {
	// Standard output is the guest's console; the VMM's own log would be mixed into it. A minimal /dev has no stderr.
	cmd := exec.Command(opt.Path, "--api-sock", APISocket, "--id", opt.ID, "--log-path", "/proc/self/fd/2", "--level", "Warning")
	cmd.Dir = opt.Dir
	cmd.Stdout, cmd.Stderr = opt.Console, opt.Log
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	// A child of the VMM that still holds its output must not keep Wait from returning.
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("run the VMM %s: %v", opt.Path, err) //nolint:errorlint // ENOENT's text is for the cause only
	}
	p := &Process{Client: NewClient(APISocket), cmd: cmd, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	if err := p.waitSocket(ctx, opt); err != nil {
		p.Kill()
		return nil, err
	}
	return p, nil
}

func (p *Process) waitSocket(ctx context.Context, opt Options) error {
	ctx, cancel := context.WithTimeoutCause(ctx, opt.Timeout, fmt.Errorf("not within %s (setting boot_timeout)", opt.Timeout))
	defer cancel()
	began := time.Now()
	for pause := socketPoll; ; {
		if conn, err := (&net.Dialer{}).DialContext(ctx, "unix", APISocket); err == nil {
			return conn.Close()
		}
		select {
		case <-p.done:
			return fmt.Errorf("the VMM ended before its API answered: %w", p.exitError())
		case <-ctx.Done():
			return fmt.Errorf("the VMM's API at %s does not answer: %w", filepath.Join(opt.Dir, APISocket), context.Cause(ctx))
		case <-time.After(pause):
		}
		// A tenth of what has gone by: who waits for long does not mind it.
		pause = min(max(socketPoll, time.Since(began)/10), maxSocketPoll)
	}
}

// Pid is the VMM's process id in the caller's pid namespace.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Done is closed when the VMM has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err says how the VMM ended; nil for exit code 0. It is legal after Done is closed.
func (p *Process) Err() error { return p.err }

func (p *Process) exitError() error {
	if p.err == nil {
		return errors.New("exit status 0")
	}
	return p.err
}

// Kill ends the VMM at once and returns when it is gone. Killing one that has ended does nothing.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
	p.Close()
}
