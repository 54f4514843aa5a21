package ocicli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/containerd/log"
	"github.com/google/uuid"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/runcvm/runcvm/internal/cmdline"
	"github.com/runcvm/runcvm/internal/config"
	"github.com/runcvm/runcvm/internal/container"
	"github.com/runcvm/runcvm/internal/monitor"
	"github.com/runcvm/runcvm/internal/monitor/api"
	"github.com/runcvm/runcvm/internal/sandbox"
	"github.com/runcvm/runcvm/internal/terminal"
)

// execVerb is the hidden verb of the process that stands on the host for a further process of a container: it holds the caller's
// standard files, hands signals on, and has the process's exit code. Its own end by SIGKILL is the process's.
const execVerb = "oci-exec"

// Descriptors that the process of execVerb inherits beside its standard files.
const (
	// execRequestFD is a pipe with the execution as JSON.
	execRequestFD = 3
	// execStatusFD is the writing end of a pipe: execStarted as JSON, once.
	execStatusFD = 4
)

// execution is a further process that is asked for.
type execution struct {
	Settings  []config.Value
	Container string // the store's id
	Process   json.RawMessage
	Terminal  bool
}

// execStarted tells how the start of a process went.
type execStarted struct {
	Error string
	// Code is that of a program that could not be run, and else 0.
	Code int
}

// execDetached leaves the process to one that stands for it, and returns when it runs.
func (a *app) execDetached(ctx context.Context, x *execution, p *specs.Process, f *execFlags) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find runcvm itself: %w", err)
	}
	cmd := exec.Command(self, execVerb)
	cmd.Args[0] = "runcvm"
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if p.Terminal {
		master, slave, err := openConsole(p.ConsoleSize)
		if err != nil {
			return err
		}
		defer master.Close()
		defer slave.Close()
		cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
		cmd.SysProcAttr.Setctty, cmd.SysProcAttr.Ctty = true, 0
		if err := sendFile(ctx, f.consoleSocket, master); err != nil {
			return fmt.Errorf("--console-socket: %w", err)
		}
	}
	requestR, requestW, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make a pipe: %w", err)
	}
	defer requestW.Close()
	statusR, statusW, err := os.Pipe()
	if err != nil {
		return errors.Join(fmt.Errorf("make a pipe: %w", err), requestR.Close())
	}
	defer statusR.Close()
	if err := monitor.KeepFiles(); err != nil {
		return errors.Join(err, requestR.Close(), statusW.Close())
	}
	cmd.ExtraFiles = []*os.File{execRequestFD - 3: requestR, execStatusFD - 3: statusW}
	err = cmd.Start()
	requestR.Close()
	statusW.Close()
	if err != nil {
		return fmt.Errorf("run the process that stands for the container's: %w", err)
	}
	err = x.await(ctx, requestW, statusR)
	if err == nil && f.pidfdSocket != "" {
		err = sendPidfd(ctx, f.pidfdSocket, cmd.Process.Pid)
	}
	if err == nil {
		err = writePidFile(f.pidFile, cmd.Process.Pid)
	}
	if err != nil {
		_ = cmd.Process.Kill() // fails only where it has ended
		_ = cmd.Wait()         // it was killed
	}
	return err
}

// await hands the execution over and waits until its process runs.
func (x *execution) await(ctx context.Context, request io.WriteCloser, answer *os.File) error {
	stop := context.AfterFunc(ctx, func() { answer.Close() })
	defer stop()
	if err := json.NewEncoder(request).Encode(x); err != nil {
		return fmt.Errorf("tell what is to be run: %w", err)
	}
	request.Close()
	var s execStarted
	if err := json.NewDecoder(io.LimitReader(answer, 1<<20)).Decode(&s); err != nil {
		return errors.New("the process that stands for the container's ended without a word")
	}
	switch {
	case s.Code != 0:
		return &sandbox.ExecError{Code: s.Code, Message: s.Error}
	case s.Error != "":
		return errors.New(s.Error)
	}
	return nil
}

// execHelper is the main of execVerb.
func (a *app) execHelper() int {
	signals := monitor.Signals()
	signal.Ignore(syscall.SIGPIPE) // the process gets to know it
	log.L.Logger.SetOutput(io.Discard)
	// Nothing but the process's bytes goes to its standard files.
	slog.SetDefault(slog.New(slog.DiscardHandler))
	for _, fd := range []int{execRequestFD, execStatusFD} {
		unix.CloseOnExec(fd)
	}
	request, answer := os.NewFile(execRequestFD, "request"), os.NewFile(execStatusFD, "status")
	x := new(execution)
	err := json.NewDecoder(request).Decode(x)
	request.Close()
	var r *running
	if err == nil {
		r, err = x.start(context.Background())
	}
	s := execStarted{}
	if err != nil {
		s.Error = err.Error()
	}
	if program := new(sandbox.ExecError); errors.As(err, &program) {
		s.Code = program.Code
	}
	_ = json.NewEncoder(answer).Encode(s) // a caller that is gone needs no word
	answer.Close()
	if err != nil {
		return exitExecFailed
	}
	code, _ := r.live(context.Background(), signals) // the code says it
	return code
}

// execHere runs the process with this one's standard files, and takes its exit code over.
func (a *app) execHere(ctx context.Context, x *execution, _ *container.Entry, f *execFlags) error {
	signals := monitor.Signals()
	signal.Ignore(syscall.SIGPIPE)
	if x.Terminal {
		restore, err := terminal.Raw(os.Stdin)
		if err != nil {
			return err
		}
		defer restore()
	}
	r, err := x.start(ctx)
	if err != nil {
		return err
	}
	if err := writePidFile(f.pidFile, os.Getpid()); err != nil {
		r.Close()
		return err
	}
	if a.code, err = r.live(ctx, signals); err != nil {
		return &cmdline.ExitError{Err: err, Code: a.code}
	}
	return nil
}

// running is a process that runs.
type running struct {
	*monitor.Execution
	terminal bool
}

func (x *execution) start(ctx context.Context) (*running, error) {
	cfg, err := config.FromValues(x.Settings)
	if err != nil {
		return nil, err
	}
	e, err := container.New(cfg.DataDir, cfg.RunDir).Get(x.Container)
	if err != nil {
		return nil, errNotExist
	}
	streams := sandbox.Streams{Stdin: os.Stdin, Stdout: os.Stdout}
	if !x.Terminal {
		streams.Stderr = os.Stderr
	}
	process, err := monitor.Exec(ctx, e, &api.ExecRequest{ExecId: uuid.NewString(), Process: x.Process}, streams)
	if refusal := new(monitor.StartError); errors.As(err, &refusal) {
		return nil, processError("the process", refusal.Message, refusal.Code)
	}
	if s, ok := grpcstatus.FromError(err); err != nil && ok {
		return nil, errors.New(s.Message())
	}
	if err != nil {
		return nil, err
	}
	return &running{process, x.Terminal}, nil
}

// live hands signals on until the process has ended, and returns its exit code.
func (r *running) live(ctx context.Context, signals <-chan os.Signal) (int, error) {
	defer r.Close()
	type end struct {
		code int
		err  error
	}
	ended := make(chan end, 1)
	go func() {
		code, err := r.Wait()
		ended <- end{code, err}
	}()
	r.resize(ctx)
	for {
		select {
		case e := <-ended:
			return e.code, e.err
		case s := <-signals:
			n, ok := s.(syscall.Signal)
			switch {
			case !ok:
			case n == syscall.SIGWINCH && r.terminal:
				r.resize(ctx)
			default:
				_ = r.Signal(ctx, n) // it has ended, or the next one is tried
			}
		}
	}
}

func (r *running) resize(ctx context.Context) {
	if !r.terminal {
		return
	}
	if rows, columns := terminal.Size(os.Stdin); rows != 0 {
		_ = r.Resize(ctx, rows, columns) // it has ended, or the next one is tried
	}
}
