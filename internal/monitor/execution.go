package monitor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/runcvm/runcvm/internal/container"
	"github.com/runcvm/runcvm/internal/monitor/api"
	"github.com/runcvm/runcvm/internal/sandbox"
)

// Execution is a further process of a container, whose streams this process copies. The container's process ends it by SIGKILL when
// this one ends.
type Execution struct {
	entry  *container.Entry
	client *Client
	id     string
	events api.Processes_ExecClient
	stdio  *sandbox.Stdio
}

// streamTimeout bounds the opening of the streams, together with the start of the process.
const streamTimeout = 2 * time.Minute

// Exec runs a process in a container that runs, with these streams, and returns when it runs. A *StartError says that it could not be
// executed. Close belongs to it.
func Exec(ctx context.Context, e *container.Entry, r *api.ExecRequest, streams sandbox.Streams) (_ *Execution, err error) {
	x := &Execution{entry: e, id: r.GetExecId()}
	if x.client, err = Dial(ctx, e); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			x.Close()
		}
	}()
	r.Stdin, r.Stdout, r.Stderr = streams.Stdin != nil, streams.Stdout != nil, streams.Stderr != nil
	open, cancel := context.WithTimeout(ctx, streamTimeout)
	defer cancel()
	opened := make(chan error, 1)
	go func() {
		var err error
		x.stdio, err = x.open(open, streams)
		opened <- err
	}()
	if x.events, err = x.client.Processes.Exec(ctx, r); err != nil {
		return nil, err
	}
	event, err := x.events.Recv()
	if err != nil {
		return nil, err
	}
	if refusal := event.GetRefused(); refusal != nil {
		return nil, &StartError{Message: refusal.GetMessage(), Code: int(refusal.GetCode())}
	}
	if event.GetStarted() == nil {
		return nil, errors.New("the monitor's answer is of an unknown kind")
	}
	return x, <-opened
}

func (x *Execution) open(ctx context.Context, streams sandbox.Streams) (*sandbox.Stdio, error) {
	// By the directory's descriptor: the path itself may be longer than a Unix socket's address can be.
	dir, err := os.Open(x.entry.RunDir)
	if err != nil {
		return nil, fmt.Errorf("reach the guest of %s: %w", x.entry.Name, err)
	}
	defer dir.Close()
	path := filepath.Join(fmt.Sprintf("/proc/self/fd/%d", dir.Fd()), container.VsockSocket)
	return sandbox.OpenStdio(ctx, path, x.entry.ID, x.id, streams, slog.Default())
}

// Close ends the connection, and with it a process that runs.
func (x *Execution) Close() { _ = x.client.Close() }

// Signal sends the process a signal. It fails only where the process has ended, or the guest does not answer.
func (x *Execution) Signal(ctx context.Context, n syscall.Signal) error {
	_, err := x.client.Processes.SignalExec(ctx, &api.SignalExecRequest{ExecId: x.id, Signal: uint32(n)})
	return err
}

// Resize sets the size of its terminal. It fails only where the process has ended, or the guest does not answer.
func (x *Execution) Resize(ctx context.Context, rows, columns uint16) error {
	_, err := x.client.Processes.ResizeExec(ctx, &api.ResizeExecRequest{ExecId: x.id, Rows: uint32(rows), Columns: uint32(columns)})
	return err
}

// Wait returns the process's exit code when it has ended and its output is written. It is called once.
func (x *Execution) Wait() (code int, err error) {
	event, err := x.events.Recv()
	x.stdio.End()
	exit := event.GetExited()
	if err != nil || exit == nil {
		return exitSignal + int(syscall.SIGKILL), errors.Join(errors.New("the container's monitor has ended, and so has the process"), err)
	}
	<-x.stdio.Drained()
	err = x.stdio.Err()
	if text := exit.GetError(); text != "" {
		err = errors.New(text)
	}
	return int(exit.GetCode()), err
}
