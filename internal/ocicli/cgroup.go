package ocicli

import (
	"context"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/runcvm/runcvm/internal/hostcgroup"
	"github.com/runcvm/runcvm/internal/monitor"
)

// enterCgroup puts a monitor that has not begun into the cgroup that its bundle names.
func (a *app) enterCgroup(pid int, req *monitor.Request, spec *specs.Spec) (*hostcgroup.Cgroup, error) {
	memory, emulated, err := monitor.GuestOf(a.cfg, req)
	if err != nil {
		return nil, err
	}
	o := hostcgroup.Options{
		ID: req.Bundle.ID, Systemd: req.SystemdCgroup, Annotations: spec.Annotations, GuestMemory: memory,
		Overhead: hostcgroup.OverheadOf(emulated),
	}
	if spec.Linux != nil {
		o.Path, o.Resources = spec.Linux.CgroupsPath, spec.Linux.Resources
	}
	c, err := hostcgroup.New(o)
	if err != nil {
		return nil, err
	}
	if err := c.Enter(pid); err != nil {
		return c, err
	}
	for _, note := range c.Notes() {
		a.log.debugf(note)
	}
	return c, nil
}

// cgroupPatience is how long a cgroup may take to be empty once the monitor is gone.
const cgroupPatience = 10 * time.Second

func deleteCgroup(ctx context.Context, c *hostcgroup.Cgroup) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cgroupPatience)
	defer cancel()
	return c.Delete(ctx)
}
