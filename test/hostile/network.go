package hostile

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/runcvm/runcvm/internal/guestapi"
)

// network says that all is set up, and connects to nothing.
type network struct{}

func (network) Configure(context.Context, *guestapi.NetworkRequest) (*guestapi.NetworkResponse, error) {
	return &guestapi.NetworkResponse{}, nil
}

func (network) Dial(context.Context, *guestapi.NetworkDialRequest) (*guestapi.NetworkDialResponse, error) {
	return nil, status.Error(codes.Unavailable, "nobody listens")
}
