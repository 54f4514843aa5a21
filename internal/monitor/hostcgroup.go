package monitor

import (
	"context"
	"time"

	"github.com/runcvm/runcvm/internal/hostcgroup"
)

// hostCgroup is the host's cgroup of this monitor; nil where nobody has given it one.
func (m *monitor) hostCgroup() (*hostcgroup.Cgroup, error) {
	m.mu.Lock()
	b := m.record.Bundle // an update has another one there
	m.mu.Unlock()
	if b == nil || b.Cgroup == nil {
		return nil, nil
	}
	return hostcgroup.Load(*b.Cgroup)
}

// limitHost begins the limit of processor time on the host: the boot is not the container's time.
func (m *monitor) limitHost() error {
	c, err := m.hostCgroup()
	if c == nil || err != nil {
		return err
	}
	return c.SetCPUQuota()
}

// oomTimeout is how long the report of a lack of memory may take: mostly some 100 ms.
const oomTimeout = 30 * time.Second

// reportOOM lets engines see that the guest has killed a process of the container for lack of memory. It is for the time after the
// VMM's end.
func (m *monitor) reportOOM(ctx context.Context) error {
	c, err := m.hostCgroup()
	if c == nil || err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, oomTimeout)
	defer cancel()
	return c.ReportOOM(ctx, "/proc/self/exe", hostcgroup.StandIn)
}
