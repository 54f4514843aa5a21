package guest

import (
	"context"
	"errors"
	"log/slog"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/runcvm/runcvm/internal/guestapi"
)

// service answers the calls of guestapi's Agent. It checks what comes in and leaves the work to the rest of the package.
type service struct{ a *agent }

var _ guestapi.AgentService = (*service)(nil)

// maxSignal is the highest signal number (SIGRTMAX, signal(7)).
const maxSignal = 64

func (s *service) Setup(_ context.Context, r *guestapi.SetupRequest) (*guestapi.SetupResponse, error) {
	level, err := parseLevel(r.LogLevel)
	if err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "log level %q: %v", r.LogLevel, err)
	}
	if err := s.a.state.beginSetup(); err != nil {
		return nil, err
	}
	s.a.level.Set(level)
	release, err := s.a.setup(r)
	if err != nil {
		return nil, err
	}
	return &guestapi.SetupResponse{
		KernelRelease: release, AgentStartNanos: s.a.started, ReadyNanos: bootNanos(),
	}, nil
}

func (s *service) Create(ctx context.Context, r *guestapi.CreateRequest) (*guestapi.CreateResponse, error) {
	if !validID(r.ContainerId) {
		return nil, status.Errorf(codes.InvalidArgument, "%.128q is no container id", r.ContainerId)
	}
	c, err := s.a.state.reserve(r.ContainerId)
	if err != nil {
		return nil, err
	}
	if err := s.a.create(ctx, c, r); err != nil {
		s.a.state.forget(c)
		return nil, err
	}
	return &guestapi.CreateResponse{}, nil
}

func (a *agent) create(ctx context.Context, c *container, r *guestapi.CreateRequest) error {
	if err := a.boot.wait(ctx); err != nil {
		return err
	}
	if err := c.mount(ctx, r); err != nil {
		return err
	}
	p, err := c.writeBundle()
	if err != nil {
		return errors.Join(err, c.unmount())
	}
	c.process = p
	return c.advance(phaseCreating, phaseCreated)
}

func (s *service) Start(_ context.Context, r *guestapi.StartRequest) (*guestapi.StartResponse, error) {
	c, err := s.a.state.get(r.ContainerId)
	if err != nil {
		return nil, err
	}
	if err := c.advance(phaseCreated, phaseStarting); err != nil {
		return nil, err
	}
	if err := s.a.setClockForFirst(r.UnixNanos); err != nil {
		c.failed()
		return nil, err
	}
	if c.process.terminal && r.Stderr {
		c.failed()
		return nil, errTwoOutputs
	}
	pid, err := s.a.start(c, [3]bool{r.Stdin, r.Stdout, r.Stderr}, r.ConsoleSize)
	if err != nil {
		c.failed()
	}
	if failure := (*startError)(nil); errors.As(err, &failure) {
		slog.Info("the process could not be executed", "container", c.id, "error", err)
		return &guestapi.StartResponse{Error: failure.text, ErrorCode: failure.code}, nil
	}
	if err != nil {
		return nil, err
	}
	slog.Debug("container started", "container", c.id, "pid", pid)
	return &guestapi.StartResponse{Pid: uint32(pid)}, nil
}

// setClockForFirst sets the clock a last time before anybody sees it.
func (a *agent) setClockForFirst(hostNanos int64) error {
	first, err := a.state.beginProcess()
	if err != nil || !first || hostNanos == 0 {
		return err
	}
	offset, err := a.clock.sync(hostNanos, false)
	if err == nil {
		slog.Debug("clock set for the first process", "guest_minus_host", offset)
	}
	return err
}

func (s *service) Wait(ctx context.Context, r *guestapi.WaitRequest) (*guestapi.WaitResponse, error) {
	c, t, err := s.a.state.task(r.ContainerId, r.ExecId)
	if err != nil {
		return nil, err
	}
	if err := t.requireStarted(); err != nil {
		return nil, err
	}
	select {
	case <-t.ended:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if r.ExecId != "" {
		c.execs.answered(r.ExecId, t)
		return &guestapi.WaitResponse{ExitCode: t.exit.code, ExitedUnixNanos: t.exit.at.UnixNano()}, nil
	}
	return &guestapi.WaitResponse{ExitCode: c.exit.code, ExitedUnixNanos: c.exit.at.UnixNano(), OomKilled: c.oom}, nil
}

func (s *service) Signal(_ context.Context, r *guestapi.SignalRequest) (*guestapi.SignalResponse, error) {
	c, t, err := s.a.state.task(r.ContainerId, r.ExecId)
	if err != nil {
		return nil, err
	}
	if r.Signal > maxSignal {
		return nil, status.Errorf(codes.InvalidArgument, "%d is no signal", r.Signal)
	}
	sig := unix.Signal(r.Signal)
	switch {
	case r.All && r.ExecId != "":
		return nil, status.Error(codes.InvalidArgument, "all processes are the container's, not those of one exec")
	case r.All:
		err = signalCgroup(c.cgroup(), sig)
	default:
		var pid int
		if pid, err = t.runningPid(); err == nil {
			err = s.a.reaper.signal(pid, sig)
		}
		if errors.Is(err, unix.ESRCH) {
			err = status.Errorf(codes.FailedPrecondition, "the process of %s has ended", t.name)
		}
	}
	if err != nil {
		return nil, err
	}
	return &guestapi.SignalResponse{}, nil
}

func (s *service) SyncClock(_ context.Context, r *guestapi.SyncClockRequest) (*guestapi.SyncClockResponse, error) {
	if err := s.a.state.requireSetup(); err != nil {
		return nil, err
	}
	offset, err := s.a.clock.sync(r.UnixNanos, s.a.state.processesSeen())
	if err != nil {
		return nil, err
	}
	slog.Debug("clock compared", "guest_minus_host", offset)
	return &guestapi.SyncClockResponse{OffsetNanos: offset.Nanoseconds()}, nil
}

func (s *service) Shutdown(context.Context, *guestapi.ShutdownRequest) (*guestapi.ShutdownResponse, error) {
	if err := s.a.shutdown(); err != nil {
		return nil, err
	}
	return &guestapi.ShutdownResponse{}, nil
}
