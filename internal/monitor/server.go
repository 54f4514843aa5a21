package monitor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"

	"github.com/runcvm/runcvm/internal/container"
	"github.com/runcvm/runcvm/internal/monitor/api"
	"github.com/runcvm/runcvm/internal/sandbox"
)

// server answers on the monitor's socket from the moment the container's directory exists.
type server struct {
	ttrpc     *ttrpc.Server
	container atomic.Pointer[sandbox.Container] // nil while no process runs
	processes *processes
	askedOnce sync.Once
	// killAsked is closed when somebody asks for the end.
	killAsked chan struct{}
}

func serve(log *slog.Logger) (*server, error) {
	l, err := net.Listen("unix", container.MonitorSocket)
	if err != nil {
		return nil, fmt.Errorf("listen on the monitor's socket: %w", err)
	}
	t, err := ttrpc.NewServer()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make the monitor's server: %w", err), l.Close())
	}
	s := &server{ttrpc: t, processes: newProcesses(log), killAsked: make(chan struct{})}
	api.RegisterMonitorService(t, s)
	api.RegisterProcessesService(t, s.processes)
	api.RegisterCopyService(t, s)
	go func() {
		if err := t.Serve(context.Background(), l); err != nil && !errors.Is(err, ttrpc.ErrServerClosed) {
			log.Error("the monitor's socket is closed", "error", err)
		}
	}()
	return s, nil
}

func (s *server) close() error { return s.ttrpc.Close() }

// Signal implements api.MonitorService.
func (s *server) Signal(ctx context.Context, r *api.SignalRequest) (*api.SignalResponse, error) {
	c := s.container.Load()
	if c == nil {
		return nil, errgrpc.ToGRPC(fmt.Errorf("the container does not run: %w", errdefs.ErrFailedPrecondition))
	}
	err := c.Signal(ctx, int(r.GetSignal()))
	if errors.Is(err, sandbox.ErrTransition) {
		err = errors.Join(err, errdefs.ErrFailedPrecondition)
	}
	return &api.SignalResponse{}, errgrpc.ToGRPC(err)
}

// Kill implements api.MonitorService.
func (s *server) Kill(context.Context, *api.KillRequest) (*api.KillResponse, error) {
	s.askedOnce.Do(func() { close(s.killAsked) })
	return &api.KillResponse{}, nil
}
