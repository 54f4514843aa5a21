package monitor

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"

	"github.com/runcvm/runcvm/internal/monitor/api"
	"github.com/runcvm/runcvm/internal/sandbox"
)

// CopyStat implements api.CopyService.
func (s *server) CopyStat(ctx context.Context, r *api.CopyStatRequest) (*api.CopyStatResponse, error) {
	c, err := s.copied()
	if err != nil {
		return nil, err
	}
	f, err := c.CopyStat(ctx, string(r.GetPath()))
	return statOf(f), copyError(err)
}

// CopyOpen implements api.CopyService.
func (s *server) CopyOpen(ctx context.Context, r *api.CopyOpenRequest) (*api.CopyOpenResponse, error) {
	c, err := s.copied()
	if err != nil {
		return nil, err
	}
	if s.readOnly && r.GetWrite() {
		return nil, errgrpc.ToGRPC(fmt.Errorf("container rootfs is marked read-only: %w", errdefs.ErrInvalidArgument))
	}
	id := "cp-" + rand.Text()
	f, err := c.CopyOpen(ctx, sandbox.CopyRequest{
		ID: id, Path: string(r.GetPath()), Write: r.GetWrite(), Name: string(r.GetName()), KeepOwner: r.GetKeepOwner(),
	})
	return &api.CopyOpenResponse{Stat: statOf(f), TransferId: id}, copyError(err)
}

// CopyResult implements api.CopyService.
func (s *server) CopyResult(ctx context.Context, r *api.CopyResultRequest) (*api.CopyResultResponse, error) {
	c, err := s.copied()
	if err != nil {
		return nil, err
	}
	out, err := c.CopyResult(ctx, r.GetTransferId())
	return &api.CopyResultResponse{Error: out.Error, Sockets: out.Sockets, Socket: []byte(out.Socket)}, copyError(err)
}

// copied is the container whose files are copied.
func (s *server) copied() (*sandbox.Container, error) {
	if c := s.container.Load(); c != nil {
		return c, nil
	}
	return nil, errgrpc.ToGRPC(fmt.Errorf("the container is not there yet: %w", errdefs.ErrFailedPrecondition))
}

func statOf(f sandbox.File) *api.CopyStatResponse {
	return &api.CopyStatResponse{Mode: f.Mode, Size: f.Size, LinkTarget: []byte(f.LinkTarget)}
}

// copyError lets a refusal of the agent through as what it says, without how it came.
func copyError(err error) error {
	if refusal := (*sandbox.AgentError)(nil); errors.As(err, &refusal) {
		for _, kind := range []error{
			errdefs.ErrNotFound, errdefs.ErrInvalidArgument, errdefs.ErrFailedPrecondition, errdefs.ErrResourceExhausted,
		} {
			if errors.Is(refusal, kind) {
				return errgrpc.ToGRPC(fmt.Errorf("%s: %w", refusal.Text, kind))
			}
		}
		return errgrpc.ToGRPC(errors.New(refusal.Text))
	}
	return errgrpc.ToGRPC(err)
}
