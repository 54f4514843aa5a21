package monitor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/runcvm/runcvm/internal/guestapi"
	"github.com/runcvm/runcvm/internal/monitor/api"
	"github.com/runcvm/runcvm/internal/oci"
	"github.com/runcvm/runcvm/internal/sandbox"
)

// maxExecs bounds the processes that run at one time in a container beside its own.
const maxExecs = 512

// processes are those of the container beside its own. It answers api.ProcessesService.
type processes struct {
	log   *slog.Logger
	event func(action string, attributes ...string)

	mu        sync.Mutex
	name      string
	container *sandbox.Container
	further   further
	running   map[string]*execProcess
}

// further is what is common to a container's further processes.
type further struct {
	// process makes the specification of one.
	process func(oci.Exec) *specs.Process
	// groups are further groups of who runs one, by name or number.
	groups []string
}

// execProcess is one of them; process is nil until it runs.
type execProcess struct {
	process  *sandbox.Process
	detached bool
}

func newProcesses(log *slog.Logger, event func(action string, attributes ...string)) *processes {
	return &processes{log: log, event: event, running: map[string]*execProcess{}}
}

// use makes a container that runs the one in which processes are run.
func (p *processes) use(name string, c *sandbox.Container, f further) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.name, p.container, p.further = name, c, f
}

// stateError says in Docker's words that the container is in no state for a call.
type stateError string

func (e stateError) Error() string        { return string(e) }
func (e stateError) Is(target error) bool { return target == errdefs.ErrFailedPrecondition }

func notRunning(name string) error { return stateError("container " + name + " is not running") }

func paused(name string) error {
	return stateError("container " + name + " is paused, unpause the container before exec")
}

// begin reserves an id in the container, which must be in a state for it.
func (p *processes) begin(id string, detached bool) (*execProcess, *sandbox.Container, further, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var err error
	switch {
	case p.container == nil:
		err = stateError("the container is not running")
	case p.container.State() == sandbox.Paused:
		err = paused(p.name)
	case p.container.State() != sandbox.Running:
		err = notRunning(p.name)
	case p.running[id] != nil:
		err = fmt.Errorf("process %s: %w", id, errdefs.ErrAlreadyExists)
	case len(p.running) >= maxExecs:
		err = fmt.Errorf("%d processes run in container %s beside its own, more are not possible: %w", maxExecs, p.name,
			errdefs.ErrResourceExhausted)
	}
	if err != nil {
		return nil, nil, further{}, err
	}
	e := &execProcess{detached: detached}
	p.running[id] = e
	return e, p.container, p.further, nil
}

func (p *processes) end(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.running, id)
}

// Exec implements api.ProcessesService.
func (p *processes) Exec(ctx context.Context, r *api.ExecRequest, events api.Processes_ExecServer) error {
	return errgrpc.ToGRPC(p.exec(ctx, r, events))
}

// execArgs reads what is asked for; args is the command, for events.
func execArgs(r *api.ExecRequest) (cfg oci.Exec, args []string, err error) {
	if n := len(r.GetExecId()); n == 0 || n > guestapi.MaxContainerID {
		return cfg, nil, fmt.Errorf("a process id of %d bytes: %w", n, errdefs.ErrInvalidArgument)
	}
	if len(r.GetProcess()) > 0 {
		var p specs.Process
		if err := json.Unmarshal(r.GetProcess(), &p); err != nil {
			return cfg, nil, fmt.Errorf("the process: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		return cfg, p.Args, nil
	}
	cfg = oci.Exec{
		Args: r.GetArgs(), Env: r.GetEnv(), Cwd: r.GetCwd(), User: r.GetUser(), Privileged: r.GetPrivileged(), Terminal: r.GetTerminal(),
	}
	size, err := sandbox.NewSize(r.GetRows(), r.GetColumns())
	cfg.Rows, cfg.Columns = size.Rows, size.Columns
	if err = errors.Join(err, cfg.Check()); err != nil {
		err = errors.Join(err, errdefs.ErrInvalidArgument)
	}
	return cfg, cfg.Args, err
}

func (p *processes) exec(ctx context.Context, r *api.ExecRequest, events api.Processes_ExecServer) error {
	cfg, args, err := execArgs(r)
	if err != nil {
		return err
	}
	e, c, f, err := p.begin(r.GetExecId(), r.GetDetached())
	if err != nil {
		return err
	}
	command := ": " + strings.Join(args, " ")
	p.event("exec_create"+command, "execID", r.GetExecId())
	text := r.GetProcess()
	if len(text) == 0 {
		text, err = json.Marshal(f.process(cfg))
	}
	if err != nil {
		p.end(r.GetExecId())
		return fmt.Errorf("write the process's specification: %w", err)
	}
	// Not the caller's context: what has begun in the guest is waited for, or nobody would end it.
	started, err := c.Exec(context.WithoutCancel(ctx), sandbox.ExecConfig{
		ID: r.GetExecId(), Process: text, User: cfg.User, Groups: f.groups, OwnUser: len(r.GetProcess()) > 0,
		Stdin: r.GetStdin(), Stdout: r.GetStdout(), Stderr: r.GetStderr(),
	})
	if refusal := new(sandbox.ExecError); errors.As(err, &refusal) {
		p.end(r.GetExecId())
		return events.Send(&api.ExecEvent{Event: &api.ExecEvent_Refused_{Refused: &api.ExecEvent_Refused{
			Message: refusal.Message, Code: uint32(refusal.Code)}}})
	}
	if err != nil {
		p.end(r.GetExecId())
		return p.explain(c, err)
	}
	p.mu.Lock()
	e.process = started
	p.mu.Unlock()
	p.event("exec_start"+command, "execID", r.GetExecId())
	exited := p.follow(ctx, r.GetExecId(), e)
	if err := events.Send(&api.ExecEvent{Event: &api.ExecEvent_Started_{Started: &api.ExecEvent_Started{}}}); err != nil {
		return err
	}
	select {
	case exit := <-exited:
		event := &api.ExecEvent_Exited{Code: uint32(exit.Code)}
		if exit.Err != nil {
			event.Error = exit.Err.Error()
		}
		return events.Send(&api.ExecEvent{Event: &api.ExecEvent_Exited_{Exited: event}})
	case <-ctx.Done():
		return ctx.Err()
	}
}

// explain tells of an error that the container's own end is its reason.
func (p *processes) explain(c *sandbox.Container, err error) error {
	if c.State() == sandbox.Stopped || errdefs.IsFailedPrecondition(err) {
		p.mu.Lock()
		defer p.mu.Unlock()
		return notRunning(p.name)
	}
	return err
}

// follow waits for the process's end, whoever asks for it, and kills it where the caller has ended before.
func (p *processes) follow(caller context.Context, id string, e *execProcess) <-chan sandbox.Exit {
	exited := make(chan sandbox.Exit, 1)
	stop := context.AfterFunc(caller, func() { p.abandoned(id, e) })
	go func() {
		exit, err := e.process.Wait(context.WithoutCancel(caller))
		stop()
		p.end(id)
		if err != nil {
			exit = sandbox.Exit{Code: ExitFailure, Err: err}
		}
		p.event("exec_die", "execID", id, "exitCode", strconv.Itoa(exit.Code))
		exited <- exit
	}()
	return exited
}

// abandoned ends a process whose caller has ended.
func (p *processes) abandoned(id string, e *execProcess) {
	p.mu.Lock()
	kill := !e.detached && p.running[id] == e
	p.mu.Unlock()
	if !kill {
		return
	}
	const sigkill = 9
	if err := e.process.Signal(context.Background(), sigkill); err != nil {
		p.log.Warn("a process whose caller has ended is not killed", "process", id, "error", err)
	}
}

// find returns a process that runs.
func (p *processes) find(id string) (*execProcess, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.running[id]
	if e == nil || e.process == nil {
		return nil, fmt.Errorf("no process %s runs in container %s: %w", id, p.name, errdefs.ErrNotFound)
	}
	return e, nil
}

// SignalExec implements api.ProcessesService.
func (p *processes) SignalExec(ctx context.Context, r *api.SignalExecRequest) (*api.SignalExecResponse, error) {
	e, err := p.find(r.GetExecId())
	if err == nil {
		err = e.process.Signal(ctx, int(r.GetSignal()))
	}
	return &api.SignalExecResponse{}, errgrpc.ToGRPC(err)
}

// ResizeExec implements api.ProcessesService.
func (p *processes) ResizeExec(ctx context.Context, r *api.ResizeExecRequest) (*api.ResizeExecResponse, error) {
	size, err := sandbox.NewSize(r.GetRows(), r.GetColumns())
	if err != nil {
		return nil, errgrpc.ToGRPC(errors.Join(err, errdefs.ErrInvalidArgument))
	}
	if r.GetExecId() == "" {
		p.mu.Lock()
		name, c := p.name, p.container
		p.mu.Unlock()
		if c == nil {
			return nil, errgrpc.ToGRPC(notRunning(name))
		}
		return &api.ResizeExecResponse{}, errgrpc.ToGRPC(c.Resize(ctx, size))
	}
	e, err := p.find(r.GetExecId())
	if err == nil {
		err = e.process.Resize(ctx, size)
	}
	return &api.ResizeExecResponse{}, errgrpc.ToGRPC(err)
}

// DetachExec implements api.ProcessesService.
func (p *processes) DetachExec(_ context.Context, r *api.DetachExecRequest) (*api.DetachExecResponse, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.running[r.GetExecId()]
	if e != nil {
		e.detached = true
	}
	return &api.DetachExecResponse{}, nil
}
