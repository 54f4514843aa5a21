package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/runcvm/runcvm/internal/cmdline"
	"github.com/runcvm/runcvm/internal/container"
	"github.com/runcvm/runcvm/internal/monitor"
	"github.com/runcvm/runcvm/internal/monitor/api"
	"github.com/runcvm/runcvm/internal/oci"
	"github.com/runcvm/runcvm/internal/sandbox"
	"github.com/runcvm/runcvm/internal/terminal"
)

// execFlags are what exec was asked for.
type execFlags struct {
	exec       oci.Exec
	envFiles   []string
	stdin      bool
	detach     bool
	detachKeys string
}

func (a *app) execCommand() *cobra.Command {
	var f execFlags
	cmd := &cobra.Command{
		Use:   "exec [flags] CONTAINER COMMAND [ARG...]",
		Short: "Run a command in a running container",
		Long: "Run a command in a running container, in its namespaces and limits, with its environment, user and working\n" +
			"directory unless flags say otherwise. Output, errors and exit code are the command's; 126 says that it cannot be\n" +
			"executed, 127 that it was not found, 1 that the container does not run. Signals are handed to the command. The command\n" +
			"ends with the container, and, unless it is detached, when runcvm exec is killed.",
		Args: cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			f.exec.Args = args[1:]
			return a.exec(cmd.Context(), args[0], &f)
		},
	}
	flags := cmd.Flags()
	flags.SetInterspersed(false) // what follows the container is the command's
	flags.BoolVarP(&f.stdin, "interactive", "i", false, "give the command this standard input")
	flags.BoolVarP(&f.exec.Terminal, "tty", "t", false, "give the command a terminal")
	flags.BoolVarP(&f.detach, "detach", "d", false, "leave it running in the background, without input and output")
	flags.StringArrayVarP(&f.exec.Env, "env", "e", nil, "environment variable NAME=VALUE, or NAME for the value here")
	flags.StringArrayVar(&f.envFiles, "env-file", nil, "file with a variable a line")
	flags.StringVarP(&f.exec.Cwd, "workdir", "w", "", "working directory")
	flags.StringVarP(&f.exec.User, "user", "u", "", "user NAME|UID[:GROUP|GID]")
	flags.BoolVar(&f.exec.Privileged, "privileged", false, "give the command all capabilities")
	flags.StringVar(&f.detachKeys, "detach-keys", terminal.DefaultDetachKeys,
		"keys that leave a command with a terminal running; empty: none")
	return cmd
}

func (a *app) exec(ctx context.Context, ref string, f *execFlags) error {
	env, err := environment(f.envFiles, f.exec.Env)
	f.exec.Env = env
	keys, kerr := terminal.ParseDetachKeys(f.detachKeys)
	if err := errors.Join(err, kerr, f.exec.Check()); err != nil {
		return err
	}
	if f.exec.Terminal && f.stdin && !f.detach && !terminal.Is(os.Stdin) {
		return terminal.ErrNotATerminal
	}
	e, err := a.containers().Find(ref)
	if err != nil {
		return err
	}
	if !e.Alive || e.State == string(sandbox.Stopped) {
		return fmt.Errorf("container %s is not running", e.Name)
	}
	client, err := monitor.Dial(ctx, e)
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }() // all that was asked for is answered
	x := &execution{app: a, entry: e, client: client, flags: f, id: newID(), signals: monitor.Signals()}
	signal.Ignore(syscall.SIGPIPE) // the command gets to know it
	if f.detach {
		return x.start(ctx)
	}
	return x.run(ctx, keys)
}

// execution is one run of exec.
type execution struct {
	app     *app
	entry   *container.Entry
	client  *monitor.Client
	flags   *execFlags
	id      string
	signals chan os.Signal
	events  api.Processes_ExecClient
}

// ask asks the monitor for the process.
func (x *execution) ask(ctx context.Context) (err error) {
	f := x.flags
	rows, columns := x.size()
	x.events, err = x.client.Processes.Exec(ctx, &api.ExecRequest{
		ExecId: x.id, Args: f.exec.Args, Env: f.exec.Env, Cwd: f.exec.Cwd, User: f.exec.User, Privileged: f.exec.Privileged,
		Terminal: f.exec.Terminal, Rows: uint32(rows), Columns: uint32(columns),
		Stdin: f.stdin && !f.detach, Stdout: !f.detach, Stderr: !f.detach && !f.exec.Terminal, Detached: f.detach,
	})
	return err
}

// size is of the window, where the process has a terminal.
func (x *execution) size() (rows, columns uint16) {
	if !x.flags.exec.Terminal || x.flags.detach {
		return 0, 0
	}
	return windowSize()
}

// started waits for the process.
func (x *execution) started() error {
	event, err := x.events.Recv()
	if err != nil {
		return x.explain(err)
	}
	if r := event.GetRefused(); r != nil {
		return &cmdline.ExitError{Err: errors.New(r.GetMessage()), Code: int(r.GetCode())}
	}
	if event.GetStarted() == nil {
		return errors.New("the monitor's answer is of an unknown kind")
	}
	return nil
}

// explain gives the monitor's error without what ttrpc says around it.
func (x *execution) explain(err error) error {
	st := status.Convert(err)
	switch st.Code() {
	case codes.FailedPrecondition:
		return errors.New(st.Message())
	case codes.Unknown, codes.InvalidArgument, codes.ResourceExhausted:
		return fmt.Errorf("exec in container %s: %s", x.entry.Name, st.Message())
	}
	return fmt.Errorf("exec in container %s: %w", x.entry.Name, err)
}

// start runs the process and leaves it.
func (x *execution) start(ctx context.Context) error {
	if err := x.ask(ctx); err != nil {
		return x.explain(err)
	}
	return x.started()
}

// run runs the process with this one's standard files, and takes over its exit code.
func (x *execution) run(ctx context.Context, keys []byte) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stdin := terminal.NewDetachReader(os.Stdin, nil)
	if x.flags.exec.Terminal && x.flags.stdin {
		restore, err := terminal.Raw(os.Stdin)
		if err != nil {
			return err
		}
		defer restore()
		stdin = terminal.NewDetachReader(os.Stdin, keys)
	}
	opened := make(chan error, 1)
	var stdio *sandbox.Stdio
	go func() {
		var err error
		stdio, err = x.open(ctx, stdin)
		opened <- err
	}()
	err := x.ask(ctx)
	if err != nil {
		return x.explain(err)
	}
	if err := x.started(); err != nil {
		return err
	}
	if err := <-opened; err != nil {
		return &cmdline.ExitError{Err: fmt.Errorf("exec in container %s: %w", x.entry.Name, err), Code: monitor.ExitFailure}
	}
	return x.follow(ctx, stdio, stdin)
}

// openTimeout bounds the opening of the streams, together with the start of the process.
const openTimeout = 2 * time.Minute

func (x *execution) open(ctx context.Context, stdin io.ReadCloser) (*sandbox.Stdio, error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	// By the directory's descriptor: the path itself may be longer than a Unix socket's address can be.
	dir, err := os.Open(x.entry.RunDir)
	if err != nil {
		return nil, fmt.Errorf("reach the guest of %s: %w", x.entry.Name, err)
	}
	defer dir.Close()
	streams := sandbox.Streams{Stdout: os.Stdout}
	if x.flags.stdin {
		streams.Stdin = stdin
	}
	if !x.flags.exec.Terminal {
		streams.Stderr = os.Stderr
	}
	path := filepath.Join(fmt.Sprintf("/proc/self/fd/%d", dir.Fd()), container.VsockSocket)
	return sandbox.OpenStdio(ctx, path, x.entry.ID, x.id, streams, slog.Default())
}

// follow hands signals on until the process has ended and its output is written, or until it is left by the detach keys.
func (x *execution) follow(ctx context.Context, stdio *sandbox.Stdio, stdin *terminal.DetachReader) error {
	ended := make(chan error, 1)
	var exit *api.ExecEvent_Exited
	go func() {
		event, err := x.events.Recv()
		exit = event.GetExited()
		ended <- err
	}()
	x.resize(ctx) // it may have changed since
	for {
		select {
		case s := <-x.signals:
			x.handle(ctx, s)
		case <-stdin.Detached():
			_, err := x.client.Processes.DetachExec(ctx, &api.DetachExecRequest{ExecId: x.id})
			stdio.Leave()
			return errors.Join(err, terminal.ErrDetached)
		case err := <-ended:
			stdio.End()
			if err != nil || exit == nil {
				text := fmt.Sprintf("the monitor of container %s has ended, and so has the command", x.entry.Name)
				if err != nil {
					text += " (" + err.Error() + ")"
				}
				return &cmdline.ExitError{Err: errors.New(text), Code: exitKilled}
			}
			<-stdio.Drained()
			return x.exited(exit, stdio.Err())
		}
	}
}

// exitKilled is the exit code of a command whose container's monitor was killed: 128 + SIGKILL.
const exitKilled = 137

func (x *execution) exited(exit *api.ExecEvent_Exited, err error) error {
	if text := exit.GetError(); text != "" {
		err = errors.New(text)
	}
	if err != nil {
		return &cmdline.ExitError{Err: err, Code: int(exit.GetCode())}
	}
	x.app.code = int(exit.GetCode())
	return nil
}

func (x *execution) handle(ctx context.Context, s os.Signal) {
	n, ok := s.(syscall.Signal)
	switch {
	case !ok:
	case n == syscall.SIGWINCH && x.flags.exec.Terminal:
		x.resize(ctx)
	default:
		// Fails only where the process has ended, or the guest does not answer: then the next one is tried.
		_, _ = x.client.Processes.SignalExec(ctx, &api.SignalExecRequest{ExecId: x.id, Signal: uint32(n)})
	}
}

func (x *execution) resize(ctx context.Context) {
	rows, columns := x.size()
	if rows == 0 {
		return
	}
	// Fails only where the process has ended, or the guest does not answer.
	_, _ = x.client.Processes.ResizeExec(ctx, &api.ResizeExecRequest{ExecId: x.id, Rows: uint32(rows), Columns: uint32(columns)})
}
