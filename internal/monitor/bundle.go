package monitor

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/containerd/errdefs/pkg/errgrpc"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/runcvm/runcvm/internal/container"
	"github.com/runcvm/runcvm/internal/monitor/api"
	"github.com/runcvm/runcvm/internal/network"
	"github.com/runcvm/runcvm/internal/sandbox"
)

// runBundle is the life of a container that is made of a bundle: it is created, waits for start, and lives. The monitor's exit code
// is the container's.
func (m *monitor) runBundle(ctx context.Context) int {
	l, err := m.createBundle(ctx)
	report(m.status, err, true)
	if err != nil {
		return exitCode(err)
	}
	if err := m.awaitSettled(l); err != nil {
		l.end(ctx, false)
		err = errors.Join(err, m.closeAll(func() error { return m.giveBack(err) }))
		m.settled(err)
		return ExitFailure
	}
	m.update(func(r *container.Record) { r.State = string(sandbox.Created) })
	m.settled(nil)
	ask, exit := m.awaitStart(ctx, l)
	if ask == nil {
		close(m.over)
		l.end(ctx, false)
		return m.finish(exit)
	}
	if err := m.startBundle(ctx, l); err != nil {
		close(m.over)
		l.end(ctx, false)
		exit := sandbox.Exit{Code: exitCode(err), Err: err}
		// Before the answer: who gets it looks at the state.
		m.recordEnd(exit)
		ask <- err
		return m.finish(exit)
	}
	if l.ownsTerminal() {
		l.resizeTerminal(ctx) // it may have changed since the start was asked for
	}
	ask <- nil
	return m.supervise(ctx, l)
}

// startBundle boots what was created and runs the process. Limits do not change meanwhile: see changeable.
func (m *monitor) startBundle(ctx context.Context, l *life) error {
	if err := l.climb(ctx, l.boot); err != nil {
		return err
	}
	if err := l.limitHost(); err != nil {
		l.logger.Warn("the host does not hold the limit of processor time; the guest does", "error", err)
	}
	l.runs()
	return nil
}

// createBundle makes all that can be made before the start: disks, kernel, VMM. After an error nothing of the container is left.
func (m *monitor) createBundle(ctx context.Context) (*life, error) {
	return m.firstLife(ctx, func(l *life) error {
		if m.req.Namespace == "" {
			// The namespace is this process's own and new, and nobody else brings its loopback interface up: a port-forward uses it.
			if err := network.LoopbackUp(); err != nil {
				return err
			}
		}
		return l.climb(ctx, l.prepare)
	})
}

// publicID is the id that the container's maker calls it by.
func (m *monitor) publicID() string {
	if m.req.Bundle != nil {
		return m.req.Bundle.ID
	}
	return m.req.ID
}

// awaitSettled waits for the caller's word that its part of the creation is done.
func (m *monitor) awaitSettled(l *life) error {
	select {
	case <-m.detached:
		return nil
	case <-m.callerGone:
		return errors.New("the caller of the creation has ended")
	case <-m.server.killAsked:
		return errors.New("it was removed while it was being created")
	case <-l.prep.sandbox.Done():
		return errors.New("the VMM has ended")
	}
}

// awaitStart waits until somebody starts the container, and returns where the answer goes; nil where it has ended before.
func (m *monitor) awaitStart(ctx context.Context, l *life) (chan<- error, sandbox.Exit) {
	defer close(m.server.bundle.begun)
	for {
		select {
		case ask := <-m.server.bundle.starts:
			return ask, sandbox.Exit{}
		case s := <-m.signals:
			// What a process that has set no handler ends by.
			if n, ok := s.(syscall.Signal); ok && (asksForEnd(s) || n == syscall.SIGQUIT || n == syscall.SIGABRT) {
				return nil, sandbox.Exit{Code: exitSignal + int(n)}
			}
		case <-m.stops:
			return nil, sandbox.Exit{Code: exitSignal + int(syscall.SIGTERM)}
		case <-m.server.killAsked:
			return nil, sandbox.Exit{Code: exitSignal + int(syscall.SIGKILL)}
		case <-l.prep.sandbox.Done():
			return nil, sandbox.Exit{Code: exitSignal + int(syscall.SIGKILL), Err: errors.New("the VMM has ended before the start")}
		case <-ctx.Done():
			return nil, sandbox.Exit{Code: ExitFailure, Err: ctx.Err()}
		}
	}
}

// exitSignal is what a signal's number is added to for the exit code of what it has ended.
const exitSignal = 128

// bundleServer answers api.BundleService.
type bundleServer struct {
	m      *monitor
	server *server
	starts chan chan<- error
	// begun is closed when the container does not wait for its start any more.
	begun chan struct{}
	// changing has room for one who changes limits, or takes changed; others wait for as long as they like.
	changing chan struct{}
	// changed are the limits that a container has got between create and start; nil where they are the bundle's.
	changed *specs.LinuxResources
}

func newBundleServer(m *monitor, s *server) *bundleServer {
	return &bundleServer{m: m, server: s, starts: make(chan chan<- error), begun: make(chan struct{}), changing: make(chan struct{}, 1)}
}

// StartBundle implements api.BundleService.
func (s *bundleServer) StartBundle(ctx context.Context, _ *api.StartBundleRequest) (*api.StartBundleResponse, error) {
	if s.m.req.Bundle == nil {
		return nil, errgrpc.ToGRPC(stateError("the container is not made of a bundle"))
	}
	answer := make(chan error, 1)
	select {
	case s.starts <- answer:
	case <-s.begun:
		return nil, errgrpc.ToGRPC(stateError("the container was started before"))
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	// Not the caller's context: the container starts, whatever becomes of who asked.
	err := <-answer
	if err == nil {
		return &api.StartBundleResponse{}, nil
	}
	text := err.Error()
	if refusal := new(sandbox.ExecError); errors.As(err, &refusal) {
		text = refusal.Message
	}
	return &api.StartBundleResponse{Error: text, Code: uint32(exitCode(err))}, nil
}

// KillBundle implements api.BundleService.
func (s *bundleServer) KillBundle(ctx context.Context, r *api.KillBundleRequest) (*api.KillBundleResponse, error) {
	signal := syscall.Signal(r.GetSignal())
	l := s.m.life.Load()
	var err error
	switch {
	case l == nil && signal == syscall.SIGKILL:
		s.server.askedOnce.Do(func() { close(s.server.killAsked) })
	case l == nil && signal != 0:
		select {
		case s.m.signals <- signal:
		default:
			err = fmt.Errorf("signal %d: the container does not take it at the moment", signal)
		}
	case l == nil:
	case r.GetAll():
		err = l.container.SignalAll(ctx, int(signal))
	case signal == syscall.SIGKILL:
		// One that is paused is woken, or it would not end.
		err = l.signalToEnd(ctx, int(signal))
	default:
		err = l.signal(ctx, int(signal))
	}
	return &api.KillBundleResponse{}, refuse(err)
}
