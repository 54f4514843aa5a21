package monitor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/cgroups"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/runcvm/runcvm/internal/bundle"
	"github.com/runcvm/runcvm/internal/container"
	"github.com/runcvm/runcvm/internal/guestapi"
	"github.com/runcvm/runcvm/internal/hostcgroup"
	"github.com/runcvm/runcvm/internal/monitor/api"
	"github.com/runcvm/runcvm/internal/sandbox"
)

// UpdateBundle implements api.BundleService.
func (s *bundleServer) UpdateBundle(ctx context.Context, r *api.UpdateBundleRequest) (*api.UpdateBundleResponse, error) {
	change := new(specs.LinuxResources)
	if err := json.Unmarshal(r.GetResources(), change); err != nil {
		return nil, refuse(fmt.Errorf("resources: %w: %w", err, errdefs.ErrInvalidArgument))
	}
	return &api.UpdateBundleResponse{}, refuse(s.change(ctx, change))
}

// change changes limits on the host and in the guest, one change after the other. After an error all are as they were.
func (s *bundleServer) change(ctx context.Context, change *specs.LinuxResources) error {
	if err := s.beginChange(ctx); err != nil {
		return err
	}
	defer s.endChange()
	l, err := s.changeable()
	if err != nil {
		return err
	}
	host, err := s.m.hostCgroup()
	if err != nil {
		return err
	}
	if host == nil {
		return stateError("the container is not made of a bundle")
	}
	present := host.State().Options.Resources
	merged := hostcgroup.Merge(present, change)
	if err := checkChange(change, merged, s.m.vmm()); err != nil {
		return err
	}
	if l != nil {
		if err := checkUse(ctx, l, change); err != nil {
			return err
		}
	}
	undo, err := host.Update(change, l != nil)
	if err != nil {
		return err
	}
	if l == nil {
		s.changed = merged // the start's
	} else if err := l.container.Update(ctx, guestChange(change, merged)); err != nil {
		before := hostcgroup.Before(present, change)
		return errors.Join(err, undo(), l.container.Update(context.WithoutCancel(ctx), guestChange(before, before)))
	}
	state := host.State()
	s.m.update(func(r *container.Record) {
		b := *r.Bundle
		b.Cgroup = &state
		r.Bundle = &b
	})
	return nil
}

// beginChange waits for its turn to change limits, or to take them for the start; endChange follows.
func (s *bundleServer) beginChange(ctx context.Context) error {
	select {
	case s.changing <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("another change of the limits has not ended: %w", ctx.Err())
	}
}

func (s *bundleServer) endChange() { <-s.changing }

// takeChanged are the limits for the start that have changed since create; nil where none have. The start has begun, so that none
// change afterwards until the container runs.
func (s *bundleServer) takeChanged(ctx context.Context) (*specs.LinuxResources, error) {
	if err := s.beginChange(ctx); err != nil {
		return nil, err
	}
	defer s.endChange()
	return s.changed, nil
}

// changeable is the life whose limits can change; nil where the container is created and its start has not begun.
func (s *bundleServer) changeable() (*life, error) {
	created := s.m.isCreated() // before the life, which is there when the state says that it runs
	if l := s.m.life.Load(); l != nil {
		return l, nil
	}
	if !created {
		return nil, errNotRunning
	}
	select {
	case <-s.m.over:
		return nil, errNotRunning
	default:
	}
	select {
	case <-s.begun:
		return nil, errStarting
	default:
		return nil, nil
	}
}

// errStarting is of a change that the guest that boots would not have, and whose container may not come to run.
var errStarting = stateError("the container is starting; change its limits when it runs")

// isCreated says whether the container is created and did not run yet, as far as its record knows.
func (m *monitor) isCreated() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.record.State == string(sandbox.Created)
}

// vmm is the container's VMM.
func (m *monitor) vmm() container.VMM {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.record.VMM
}

// checkUse refuses a limit of memory that the container is above, where the change asks for that.
func checkUse(ctx context.Context, l *life, change *specs.LinuxResources) error {
	m := change.Memory
	if m == nil || m.CheckBeforeUpdate == nil || !*m.CheckBeforeUpdate || value(m.Limit) <= 0 {
		return nil
	}
	used, err := l.container.Usage(ctx)
	if err != nil {
		return err
	}
	if used.GetMemoryUsed() >= uint64(*m.Limit) {
		return fmt.Errorf("linux.resources.memory.limit %d: the container uses %d bytes, and the limit is to be checked before",
			*m.Limit, used.GetMemoryUsed())
	}
	return nil
}

// guestChange is what of a change the guest's cgroup holds; merged is what the container has with it. Quota and period are one value
// there, of which a change may have one half.
func guestChange(change, merged *specs.LinuxResources) *guestapi.UpdateRequest {
	r := &guestapi.UpdateRequest{}
	if m := change.Memory; m != nil {
		r.MemoryLimit, r.MemoryReservation = value(m.Limit), value(m.Reservation)
	}
	if c := change.CPU; c != nil {
		if changesQuota(c) {
			r.CpuQuota, r.CpuPeriod = value(merged.CPU.Quota), value(merged.CPU.Period)
			if r.CpuQuota == 0 {
				r.CpuQuota = -1 // a period alone, and there was no quota
			}
		}
		r.CpuBurst, r.CpuIdle = orNone(c.Burst), orNone(c.Idle)
		// The kernel takes no weight of one that is idle, and one that is not idle any more has the default.
		if shares := value(merged.CPU.Shares); shares > 0 && value(merged.CPU.Idle) != 1 && (value(c.Shares) > 0 || r.CpuIdle < 0) {
			r.CpuWeight = cgroups.ConvertCPUSharesToCgroupV2Value(shares)
		}
	}
	if p := change.Pids; p != nil {
		r.PidsLimit = value(p.Limit)
	}
	return r
}

// changesQuota says whether either part of the limit of processor time changes. Engines send 0 for what they do not change.
func changesQuota(c *specs.LinuxCPU) bool { return value(c.Quota) != 0 || value(c.Period) != 0 }

// orNone is a value for the guest, of which 0 takes away what there is.
func orNone[T int64 | uint64](n *T) int64 {
	if n != nil && *n == 0 {
		return -1
	}
	return int64(value(n))
}

func value[T int64 | uint64 | uint32](n *T) T {
	if n == nil {
		return 0
	}
	return *n
}

// checkChange refuses what a guest that is booted cannot be given, and what has no meaning there; all of it at once. merged is what the
// container has with the change. Engines send zeros, and the rules for devices, which stay, with what they change.
func checkChange(change, merged *specs.LinuxResources, vmm container.VMM) error {
	var errs []error
	refuse := func(is bool, field, why string) {
		if is {
			errs = append(errs, fmt.Errorf("linux.resources.%s: %s: %w", field, why, errdefs.ErrNotImplemented))
		}
	}
	if m := change.Memory; m != nil {
		if most := largestLimit(vmm.MemoryMiB, vmm.CPUs); value(m.Limit) > most {
			errs = append(errs, fmt.Errorf("linux.resources.memory.limit %d: the guest was booted with %d MiB, which hold a limit of %d "+
				"at most; change it while the container is stopped: the next start boots a guest for it: %w",
				*m.Limit, vmm.MemoryMiB, most, errdefs.ErrOutOfRange))
		}
		refuse(m.DisableOOMKiller != nil && *m.DisableOOMKiller, "memory.disableOOMKiller", "the guest's cgroup v2 cannot; leave it out")
	}
	if c := change.CPU; c != nil {
		if changesQuota(c) {
			errs = append(errs, checkQuota(merged.CPU, vmm))
		}
		errs = append(errs, checkBurst(merged.CPU), checkIdle(c, merged.CPU))
		refuse(value(c.RealtimeRuntime) != 0 || value(c.RealtimePeriod) != 0, "cpu.realtimeRuntime",
			"the guest's kernel shares no real-time budget among cgroups; leave it out")
	}
	refuse(len(change.Unified) > 0, "unified", "the guest's files are set at create alone; name the limits")
	refuse(len(change.Rdma) > 0, "rdma", "the guest has no RDMA device; leave it out")
	refuse(change.Network != nil && (value(change.Network.ClassID) != 0 || len(change.Network.Priorities) > 0), "network",
		"the host sees no sockets of the guest's; leave it out")
	return errors.Join(errs...)
}

// checkQuota refuses a limit of processor time that the kernel does not take, which for a container that is created would show at the
// start alone, and one that is more than the guest has processors for.
func checkQuota(c *specs.LinuxCPU, vmm container.VMM) error {
	if err := bundle.CheckProcessorTime(c); err != nil {
		return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	quota, period := value(c.Quota), value(c.Period)
	if period == 0 {
		period = defaultPeriod
	}
	if most := int64(vmm.CPUs) * int64(period); quota > most {
		return fmt.Errorf("linux.resources.cpu.quota %d in each linux.resources.cpu.period of %d: the guest was booted with "+
			"%d processors, so %d at most; change it while the container is stopped: the next start boots a guest for it: %w",
			quota, period, vmm.CPUs, most, errdefs.ErrOutOfRange)
	}
	return nil
}

// checkBurst refuses a burst that the kernel does not take.
func checkBurst(c *specs.LinuxCPU) error {
	burst, quota := value(c.Burst), value(c.Quota)
	if burst > math.MaxInt64 || quota > 0 && burst > uint64(quota) {
		return fmt.Errorf("linux.resources.cpu.burst %d: it is at most linux.resources.cpu.quota, %d: %w",
			burst, quota, errdefs.ErrInvalidArgument)
	}
	return nil
}

// checkIdle refuses what the kernel does not take of one that is idle.
func checkIdle(change, merged *specs.LinuxCPU) error {
	switch idle := value(merged.Idle); {
	case idle != 0 && idle != 1:
		return fmt.Errorf("linux.resources.cpu.idle %d: it is 0 or 1: %w", idle, errdefs.ErrInvalidArgument)
	case idle == 1 && value(change.Shares) != 0:
		return fmt.Errorf("linux.resources.cpu.shares %d: a container that is idle has none; give linux.resources.cpu.idle 0 with it: %w",
			*change.Shares, errdefs.ErrInvalidArgument)
	}
	return nil
}

// defaultPeriod is the period of a CPU quota in microseconds, the kernel's default.
const defaultPeriod = 100_000
