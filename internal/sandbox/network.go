package sandbox

import (
	"context"
	"fmt"

	"github.com/runcvm/runcvm/internal/guestapi"
)

// configureNetwork has the agent set up the guest's interfaces.
func (s *Sandbox) configureNetwork(ctx context.Context, r *guestapi.NetworkRequest) error {
	defer s.cfg.Timeline.Phase("network")()
	if _, err := s.network.Configure(ctx, r); err != nil {
		return fmt.Errorf("set the guest's network up: %w", err)
	}
	return nil
}
