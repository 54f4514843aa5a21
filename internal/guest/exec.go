package guest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/runcvm/runcvm/internal/guestapi"
)

const (
	// maxExecs bounds the processes of one container that Exec has run and that are not forgotten yet.
	maxExecs = 1024
	// rememberedExecs is how many ids of processes are kept that are forgotten otherwise, so that a stream that is opened late is
	// refused at once.
	rememberedExecs = 256
)

var errTwoOutputs = status.Error(codes.InvalidArgument, "a process with a terminal has no stderr of its own")

// execs are a container's processes beside its own, by the ids that the host gave them.
type execs struct {
	mu    sync.Mutex
	tasks map[string]*task
	// arrival is closed, and made anew, when a task is added.
	arrival chan struct{}
	// past are ids of forgotten tasks, in a ring.
	past [rememberedExecs]string
	next int
}

func (e *execs) init() { e.tasks, e.arrival = map[string]*task{}, make(chan struct{}) }

// add makes a task under an id.
func (e *execs) add(container, id string) (*task, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.tasks[id] != nil:
		return nil, status.Errorf(codes.AlreadyExists, "container %s has a process %s already", container, id)
	case len(e.tasks) >= maxExecs:
		return nil, status.Errorf(codes.ResourceExhausted, "container %s has %d further processes, more are not possible", container,
			maxExecs)
	}
	t := new(task)
	t.init("process " + id + " of container " + container)
	t.phase = phaseStarting
	e.tasks[id] = t
	close(e.arrival)
	e.arrival = make(chan struct{})
	return t, nil
}

// get returns a task; late says that it is forgotten, and arrival is closed when there is another one.
func (e *execs) get(id string) (t *task, late bool, arrival <-chan struct{}) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, p := range e.past {
		late = late || p == id
	}
	return e.tasks[id], late, e.arrival
}

// forget takes a task out.
func (e *execs) forget(id string, t *task) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.tasks[id] == t {
		delete(e.tasks, id)
		e.past[e.next%rememberedExecs] = id
		e.next++
	}
}

// answered forgets a task whose exit has been told, as soon as its streams are done: the host may be opening them at this moment.
func (e *execs) answered(id string, t *task) {
	go func() {
		t.pumps.Wait()
		e.forget(id, t)
	}()
}

// await returns the task whose stream the host opens, which may come before the task itself.
func (c *container) await(id string, timeout time.Duration) (*task, error) {
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	for {
		t, late, arrival := c.execs.get(id)
		if t != nil {
			return t, nil
		}
		missing := status.Errorf(codes.NotFound, "container %s has no process %q", c.id, id)
		if late {
			return nil, missing
		}
		select {
		case <-arrival:
		case <-c.ended:
			return nil, missing
		case <-timer.C:
			return nil, missing
		}
	}
}

// task returns a container's process: its own where exec is empty.
func (r *registry) task(container, exec string) (*container, *task, error) {
	c, err := r.get(container)
	if err != nil {
		return nil, nil, err
	}
	if exec == "" {
		return c, &c.task, nil
	}
	t, _, _ := c.execs.get(exec)
	if t == nil {
		return nil, nil, status.Errorf(codes.NotFound, "container %s has no process %.128q", c.id, exec)
	}
	return c, t, nil
}

func (s *service) Exec(_ context.Context, r *guestapi.ExecRequest) (*guestapi.ExecResponse, error) {
	c, err := s.a.state.get(r.ContainerId)
	if err != nil {
		return nil, err
	}
	if !validID(r.ExecId) {
		return nil, status.Errorf(codes.InvalidArgument, "%.128q is no process id", r.ExecId)
	}
	if len(r.Process) > maxConfig {
		return nil, status.Errorf(codes.InvalidArgument, "a process of %d bytes; at most %d", len(r.Process), maxConfig)
	}
	if _, err := c.runningPid(); err != nil {
		return nil, err
	}
	if _, err := s.a.state.beginProcess(); err != nil {
		return nil, err
	}
	t, err := c.execs.add(c.id, r.ExecId)
	if err != nil {
		return nil, err
	}
	pid, err := s.a.exec(c, t, r)
	if err != nil {
		t.failed()
		for _, s := range t.streams {
			s.close()
		}
		c.execs.forget(r.ExecId, t)
	}
	if failure := (*startError)(nil); errors.As(err, &failure) {
		slog.Info("the process could not be executed", "process", t.name, "error", err)
		return &guestapi.ExecResponse{Error: failure.text, ErrorCode: failure.code}, nil
	}
	if err != nil {
		return nil, err
	}
	slog.Debug("process started", "process", t.name, "pid", pid)
	return &guestapi.ExecResponse{Pid: uint32(pid)}, nil
}

func (s *service) Resize(_ context.Context, r *guestapi.ResizeRequest) (*guestapi.ResizeResponse, error) {
	_, t, err := s.a.state.task(r.ContainerId, r.ExecId)
	if err != nil {
		return nil, err
	}
	return &guestapi.ResizeResponse{}, t.resize(r.Size)
}

// exec runs a process in a running container.
func (a *agent) exec(c *container, t *task, r *guestapi.ExecRequest) (pid int, err error) {
	// Not the root of the container's first process, which that can choose: crun joins the mount namespace, and so gets its root.
	root, err := a.openRoot(c)
	if err != nil {
		return 0, err
	}
	defer root.Close()
	text, p, err := completeProcess(r, c.process, userLookup{
		user:   func(spec string) (execUser, error) { return resolveUser(int(root.Fd()), spec) },
		groups: func(names []string) ([]uint32, error) { return resolveGroups(int(root.Fd()), names) },
	})
	if err != nil {
		// The user is the caller's own to name: docker's exit code for one that there is not.
		return 0, &startError{err.Error(), exitNotExecutable}
	}
	if p.terminal && r.Stderr {
		return 0, errTwoOutputs
	}
	files := filepath.Join(c.dir, "exec-"+r.ExecId)
	l := launch{
		task: t, process: p, streams: [3]bool{r.Stdin, r.Stdout, r.Stderr}, pidFile: files + ".pid", logFile: files + ".log",
		check: (&commandCheck{int(root.Fd()), p}).run,
	}
	l.command = []string{"exec", "--detach", "--process", files + ".json", "--pid-file", l.pidFile}
	l.id = c.id
	if err := os.WriteFile(files+".json", text, 0o600); err != nil {
		return 0, err
	}
	defer func() {
		for _, f := range []string{files + ".json", l.pidFile, l.logFile} {
			_ = os.Remove(f) // one that is left is a file of the agent's, in memory, that goes with the guest
		}
	}()
	pid, done, err := a.launch(&l)
	if err != nil {
		return 0, err
	}
	t.began(pid)
	go func() { t.finish(<-done) }()
	return pid, nil
}

// completeProcess sets the fields of a further process that only the guest knows: its user and that one's home.
func completeProcess(r *guestapi.ExecRequest, own *process, lookup userLookup) ([]byte, *process, error) {
	var proc object
	if err := json.Unmarshal(r.Process, &proc); err != nil {
		return nil, nil, fmt.Errorf("the process: %w", err)
	}
	p := &process{}
	err := errors.Join(proc.get("args", &p.args), proc.get("env", &p.env), proc.get("cwd", &p.cwd), proc.get("user", &p.user),
		proc.get("terminal", &p.terminal))
	if err == nil && (len(p.args) == 0 || p.args[0] == "" || strings.Contains(strings.Join(p.args, ""), "\x00")) {
		err = errors.New("the process has no command, or one that cannot be executed")
	}
	if err != nil {
		return nil, nil, err
	}
	if r.OwnUser {
		// It is whole.
	} else if r.User == "" {
		umask := p.user.Umask
		p.user = own.user
		p.user.Umask = umask
	} else if err := p.resolve(map[string]string{
		guestapi.UserAnnotation: r.User, guestapi.GroupsAnnotation: strings.Join(r.Groups, ","),
	}, lookup); err != nil {
		return nil, nil, err
	}
	// Where it is not known here, crun finds it.
	if p.user.home != "" && !hasEnv(p.env, "HOME") {
		p.env = append(p.env, "HOME="+p.user.home)
	}
	if err := errors.Join(proc.set("env", p.env), proc.set("user", p.user)); err != nil {
		return nil, nil, err
	}
	text, err := json.Marshal(proc)
	return text, p, err
}
