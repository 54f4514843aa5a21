package guest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/runcvm/runcvm/internal/guestapi"
)

// controlService answers the calls of guestapi's Control.
type controlService struct{ a *agent }

var _ guestapi.ControlService = (*controlService)(nil)

// running returns a container whose process runs.
func (s *controlService) running(id string) (*container, error) {
	c, err := s.a.state.get(id)
	if err != nil {
		return nil, err
	}
	_, err = c.runningPid()
	return c, err
}

func (s *controlService) Pause(ctx context.Context, r *guestapi.PauseRequest) (*guestapi.PauseResponse, error) {
	c, err := s.running(r.ContainerId)
	if err != nil {
		return nil, err
	}
	return &guestapi.PauseResponse{}, c.freeze(ctx, true)
}

func (s *controlService) Resume(ctx context.Context, r *guestapi.ResumeRequest) (*guestapi.ResumeResponse, error) {
	c, err := s.running(r.ContainerId)
	if err != nil {
		return nil, err
	}
	return &guestapi.ResumeResponse{}, c.freeze(ctx, false)
}

const (
	// freezeTimeout is how long processes may take to stand still: one in an uninterruptible sleep does not before it ends.
	freezeTimeout = 20 * time.Second
	freezePause   = 2 * time.Millisecond
)

// freeze freezes the container's cgroup or thaws it (cgroup.freeze of cgroup v2), and waits until that is so. What does not stand
// still in time goes on.
func (c *container) freeze(ctx context.Context, on bool) error {
	ctx, cancel := context.WithTimeout(ctx, freezeTimeout)
	defer cancel()
	file, value, want := filepath.Join(c.cgroup(), "cgroup.freeze"), "0", uint64(0)
	if on {
		value, want = "1", 1
	}
	if err := os.WriteFile(file, []byte(value), 0); err != nil {
		return fmt.Errorf("freeze the container's cgroup: %w", err)
	}
	for {
		if flatKeyed(filepath.Join(c.cgroup(), "cgroup.events"))["frozen"] == want {
			return nil
		}
		select {
		case <-c.ended:
			if !on {
				return nil
			}
			return status.Errorf(codes.FailedPrecondition, "container %s has ended", c.id)
		case <-ctx.Done():
			if on {
				_ = os.WriteFile(file, []byte("0"), 0) // what cannot be undone is no worse than before
			}
			return fmt.Errorf("the processes of container %s do not stand still, or do not go on: %w", c.id, ctx.Err())
		case <-time.After(freezePause):
		}
	}
}

func (s *controlService) Stats(_ context.Context, r *guestapi.StatsRequest) (*guestapi.StatsResponse, error) {
	c, err := s.running(r.ContainerId)
	if err != nil {
		return nil, err
	}
	return readStats(c.cgroup())
}

func (s *controlService) ListProcesses(_ context.Context, r *guestapi.ListProcessesRequest) (*guestapi.ListProcessesResponse, error) {
	c, err := s.running(r.ContainerId)
	if err != nil {
		return nil, err
	}
	return c.processes()
}

func (s *controlService) Update(_ context.Context, r *guestapi.UpdateRequest) (*guestapi.UpdateResponse, error) {
	c, err := s.running(r.ContainerId)
	if err != nil {
		return nil, err
	}
	return &guestapi.UpdateResponse{}, writeLimits(c.cgroup(), r)
}
