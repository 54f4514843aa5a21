package sandbox

import (
	"context"
	"time"

	"github.com/runcvm/runcvm/internal/guestapi"
)

// clockPeriod lies between two comparisons of the clocks. A guest's clock that is off by 100 ppm, more than a crystal may
// be, is 2 ms off after it.
const clockPeriod = 20 * time.Second

// keepClock holds the guest's clock to the host's until ctx ends.
func (s *Sandbox) keepClock(ctx context.Context) {
	tick := time.NewTicker(clockPeriod)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		call, cancel := context.WithTimeout(ctx, callTimeout)
		answer, err := s.agent.SyncClock(call, &guestapi.SyncClockRequest{UnixNanos: time.Now().UnixNano()})
		cancel()
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			s.cfg.Log.WarnContext(ctx, "the guest's agent did not answer a comparison of the clocks", "error", err)
		default:
			s.cfg.Log.DebugContext(ctx, "clocks compared", "guest_minus_host", time.Duration(answer.GetOffsetNanos()))
		}
	}
}
