package monitor

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"

	"github.com/runcvm/runcvm/internal/container"
	"github.com/runcvm/runcvm/internal/monitor/api"
	"github.com/runcvm/runcvm/internal/sandbox"
)

// controlServer answers api.ControlService: what people's verbs ask for.
type controlServer struct {
	m *monitor
	// server is the monitor's, which does not know it yet when the first call comes.
	server *server
}

// refuse makes an error of a call that is not legal now.
func refuse(err error) error {
	if errors.Is(err, sandbox.ErrTransition) || errors.Is(err, errNotRunning) {
		err = stateError(err.Error())
	}
	return errgrpc.ToGRPC(err)
}

// running is the container whose process runs.
func (s *controlServer) running() (*sandbox.Container, error) {
	c := s.server.container.Load()
	if c == nil {
		return nil, errNotRunning
	}
	return c, nil
}

// wishStop hands a wish to whoever is about the container at the moment. errNotRunning says that it has ended for good.
func (s *controlServer) wishStop(ctx context.Context, w stopWish) error {
	var begun <-chan struct{}
	if w.restart != nil {
		begun = w.restart.begun
	}
	select {
	case s.m.stops <- w:
		return nil
	case <-begun:
		return nil
	case <-s.m.over:
		return errNotRunning
	case <-ctx.Done():
		return ctx.Err()
	}
}

func stopWishOf(signal uint32, grace *int64) stopWish {
	w := stopWish{signal: int(signal), own: grace == nil}
	if grace != nil {
		w.grace = time.Duration(*grace)
	}
	return w
}

// Stop implements api.ControlService.
func (s *controlServer) Stop(ctx context.Context, r *api.StopRequest) (*api.StopResponse, error) {
	return &api.StopResponse{}, refuse(s.wishStop(ctx, stopWishOf(r.GetSignal(), r.GraceNanos)))
}

// SendSignal implements api.ControlService. As in Docker a signal that the container has not named as its stop signal ends its
// restart policy, unless it has named another.
func (s *controlServer) SendSignal(ctx context.Context, r *api.SendSignalRequest) (*api.SendSignalResponse, error) {
	l := s.m.life.Load()
	if l == nil {
		// Between two lives nothing is there to get it.
		return &api.SendSignalResponse{}, refuse(s.wishStop(ctx, stopWish{own: true}))
	}
	signal := int(r.GetSignal())
	send := l.signal
	if ends := signal == int(syscall.SIGKILL) || !l.prep.spec.NamesStopSignal || signal == int(l.prep.spec.StopSignal); ends {
		s.m.cancelRestarts()
		send = l.signalToEnd
	}
	return &api.SendSignalResponse{}, refuse(send(ctx, signal))
}

// Restart implements api.ControlService.
func (s *controlServer) Restart(ctx context.Context, r *api.RestartRequest) (*api.RestartResponse, error) {
	if b := s.m.req.Bundle; b != nil {
		return nil, refuse(RefuseStart(s.m.req.Name, b))
	}
	wish, err := s.m.wishRestart()
	if err != nil {
		return nil, refuse(err)
	}
	stop := stopWishOf(r.GetSignal(), r.GraceNanos)
	stop.restart = wish
	if err := s.wishStop(ctx, stop); err != nil {
		return nil, refuse(err)
	}
	if err := wish.await(ctx, s.m.over); err != nil {
		return nil, refuse(err)
	}
	return &api.RestartResponse{}, nil
}

// await waits until the wish is fulfilled, or cannot be. A restart that fails ends the container for good, and its reason is what is
// told of that.
func (w *restartWish) await(ctx context.Context, over <-chan struct{}) error {
	select {
	case <-w.done:
		return w.err
	case <-over:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-w.done:
		return w.err
	default:
		return fmt.Errorf("it was removed meanwhile: %w", errNotRunning)
	}
}

// AwaitEnd implements api.ControlService.
func (s *controlServer) AwaitEnd(ctx context.Context, _ *api.AwaitEndRequest) (*api.AwaitEndResponse, error) {
	select {
	case <-s.server.end:
		return &api.AwaitEndResponse{ExitCode: uint32(s.server.exitCode)}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Pause implements api.ControlService.
func (s *controlServer) Pause(ctx context.Context, _ *api.PauseRequest) (*api.PauseResponse, error) {
	l := s.m.life.Load()
	if l == nil {
		return nil, refuse(errNotRunning)
	}
	return &api.PauseResponse{}, refuse(l.pauseContainer(ctx))
}

// Resume implements api.ControlService.
func (s *controlServer) Resume(ctx context.Context, _ *api.ResumeRequest) (*api.ResumeResponse, error) {
	l := s.m.life.Load()
	if l == nil {
		return nil, refuse(errNotRunning)
	}
	return &api.ResumeResponse{}, refuse(l.resume(ctx))
}

func (l *life) pauseContainer(ctx context.Context) error {
	// Not the caller's context, here and in resume: the guest does not give up with a caller that is gone.
	if err := l.container.Pause(context.WithoutCancel(ctx)); err != nil {
		return err
	}
	l.update(func(r *container.Record) {
		if r.State == string(sandbox.Running) { // it may have been killed at once
			r.State = string(sandbox.Paused)
		}
	})
	l.event("pause")
	return nil
}

func (l *life) resume(ctx context.Context) error {
	if err := l.container.Resume(context.WithoutCancel(ctx)); err != nil {
		return err
	}
	l.update(func(r *container.Record) {
		if r.State == string(sandbox.Paused) { // it may have ended at once
			r.State = string(sandbox.Running)
		}
	})
	l.event("unpause")
	return nil
}

// Rename implements api.ControlService.
func (s *controlServer) Rename(_ context.Context, r *api.RenameRequest) (*api.RenameResponse, error) {
	if !container.ValidName(r.GetName()) {
		return nil, errgrpc.ToGRPC(fmt.Errorf("%q is no name of a container: %w", r.GetName(), errdefs.ErrInvalidArgument))
	}
	s.m.mu.Lock()
	err := s.m.files.Rename(&s.m.record, r.GetName())
	s.m.mu.Unlock()
	return &api.RenameResponse{}, errgrpc.ToGRPC(err)
}
