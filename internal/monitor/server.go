package monitor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"

	"github.com/runcvm/runcvm/internal/container"
	"github.com/runcvm/runcvm/internal/guestapi/callers"
	"github.com/runcvm/runcvm/internal/monitor/api"
	"github.com/runcvm/runcvm/internal/sandbox"
)

// server answers on the monitor's socket from the moment the container's directory exists.
type server struct {
	ttrpc     *ttrpc.Server
	clients   *callers.Callers
	container atomic.Pointer[sandbox.Container] // nil while no process runs
	processes *processes
	bundle    *bundleServer
	// readOnly says that nothing is copied into the container, whose processes do not run: its root is to be read-only for them.
	readOnly  bool
	askedOnce sync.Once
	// killAsked is closed when somebody asks for the end.
	killAsked chan struct{}
	// end is closed when the container has ended for good, with exitCode.
	end      chan struct{}
	exitCode int
}

func serve(m *monitor) (*server, error) {
	l, err := net.Listen("unix", container.MonitorSocket)
	if err != nil {
		return nil, fmt.Errorf("listen on the monitor's socket: %w", err)
	}
	t, err := ttrpc.NewServer()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make the monitor's server: %w", err), l.Close())
	}
	s := &server{
		ttrpc: t, clients: callers.New(), processes: newProcesses(m.logger, m.event),
		killAsked: make(chan struct{}), end: make(chan struct{}),
	}
	api.RegisterMonitorService(t, s)
	api.RegisterProcessesService(t, s.processes)
	api.RegisterCopyService(t, s)
	api.RegisterControlService(t, &controlServer{m, s})
	s.bundle = newBundleServer(m, s)
	api.RegisterBundleService(t, s.bundle)
	go func() {
		if err := t.Serve(context.Background(), s.clients.Track(l)); err != nil && !errors.Is(err, ttrpc.ErrServerClosed) {
			m.logger.Error("the monitor's socket is closed", "error", err)
		}
	}()
	return s, nil
}

// partingTimeout is how long clients may take to leave when the server is closed: they do once they have their answers.
const partingTimeout = 2 * time.Second

func (s *server) close() error {
	select {
	case <-s.clients.None():
	case <-time.After(partingTimeout):
	}
	return s.ttrpc.Close()
}

// ended gives those who await the container's end its exit code.
func (s *server) ended(code int) {
	s.exitCode = code
	close(s.end)
}

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
