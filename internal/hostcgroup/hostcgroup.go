// Package hostcgroup puts a container's monitor, and with it the VMM and its helpers, into the cgroup of the host that the bundle names:
// on cgroup v1, v1 beside v2 (hybrid) and v2, by the files or by systemd.
//
// The container's own limits hold in the guest. On the host they are limits of a whole microVM: its memory and what the VMM needs beside
// it, its processor time and a margin, its disks' input and output, and a bound on the VMM's processes that has nothing to do with the
// container's.
//
// Legal order: New (or Load), Enter, then SetCPUQuota, Update, ReportOOM, Processes as often as wanted, Delete. Everything but
// ReportOOM may be called from any process that sees the host's cgroups; Enter must be, when systemd makes the cgroup, from one in the
// host's pid namespace. A Cgroup is not safe for use by several goroutines at once.
package hostcgroup

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Options say which cgroup a container gets, and what it holds.
type Options struct {
	// ID is the container's.
	ID string `json:"id"`
	// Path is the bundle's linux.cgroupsPath: a path, or with Systemd SLICE:PREFIX:NAME. Without one the cgroup is below the
	// caller's, or with systemd in system.slice, under the container's ID.
	Path string `json:"path,omitempty"`
	// Systemd says that systemd makes the cgroup, as a scope.
	Systemd bool `json:"systemd,omitempty"`
	// Annotations are the bundle's; org.systemd.property.NAME are properties of the scope.
	Annotations map[string]string `json:"annotations,omitempty"`
	// Resources are the bundle's linux.resources; nil is none.
	Resources *specs.LinuxResources `json:"resources,omitempty"`
	// GuestMemory is what the guest is booted with, in bytes.
	GuestMemory int64 `json:"guest_memory"`
	// Overhead is what the VMM needs beside it.
	Overhead Overhead `json:"overhead"`
}

// State is what another process needs to know of a cgroup.
type State struct {
	Options Options `json:"options"`
	// Paths are its directories, by controller; of cgroup v2 the one of "".
	Paths map[string]string `json:"paths"`
}

// Cgroup is a cgroup of the host.
type Cgroup struct {
	options Options
	manager cgroups.Manager
	// notes are of what the host's kernel lacks.
	notes []string
}

// New finds out where the cgroup is to be. It makes nothing.
func New(o Options) (*Cgroup, error) { return load(o, nil) }

// Load is the cgroup of which State was asked, wherever that was.
func Load(s State) (*Cgroup, error) {
	// The manager forgets those that it has removed.
	return load(s.Options, maps.Clone(s.Paths))
}

func load(o Options, paths map[string]string) (*Cgroup, error) {
	config, err := placement(o)
	if err != nil {
		return nil, err
	}
	config.Resources = &cgroups.Resources{}
	m, err := manager.NewWithPaths(config, paths)
	if err != nil {
		return nil, fmt.Errorf("the host's cgroup: %w", err)
	}
	return &Cgroup{options: o, manager: m}, nil
}

// State is for Load, in another process.
func (c *Cgroup) State() State {
	return State{Options: c.options, Paths: maps.Clone(c.manager.GetPaths())}
}

// Notes are what of the resources the host does not hold for lack of a controller; the guest does.
func (c *Cgroup) Notes() []string { return c.notes }

// Enter makes the cgroup with its limits, but for the processor time, and moves a process there with all of its threads; what it starts
// afterwards is there, too. After an error the process must end before Delete.
func (c *Cgroup) Enter(pid int) error {
	others, err := c.Processes()
	if err != nil {
		return err
	}
	if len(others) > 0 {
		return fmt.Errorf("linux.cgroupsPath %q: the cgroup has processes already, %s, whose limits would be changed; "+
			"give the container a cgroup of its own", c.options.Path, list(others))
	}
	if err := c.manager.Apply(pid); err != nil {
		return fmt.Errorf("enter the host's cgroup: %w", err)
	}
	return c.hold(false)
}

// set applies what the host's kernel has controllers for, and notes what it has not.
func (c *Cgroup) set(r *cgroups.Resources) error {
	c.notes = append(c.notes, keepSupported(r, c.has)...)
	if cgroups.IsCgroup2UnifiedMode() {
		takeReservation(r)
	}
	if err := c.manager.Set(r); err != nil {
		return fmt.Errorf("limit the host's cgroup: %w", err)
	}
	return nil
}

// has says whether a file of the cgroup is there, by the controller of cgroup v1 and the names in either version.
func (c *Cgroup) has(controller, v1, v2 string) bool {
	file := v1
	if cgroups.IsCgroup2UnifiedMode() {
		file = v2
	}
	dir := c.manager.Path(controller)
	return dir != "" && cgroups.PathExists(filepath.Join(dir, file))
}

// SetCPUQuota bounds the processor time by the container's quota, if it has one, and the VMM's margin. The boot is not the container's
// time: call it when the guest is up.
func (c *Cgroup) SetCPUQuota() error {
	r := quota(c.options.Resources)
	if r == nil {
		return nil
	}
	return c.set(r)
}

// Update takes new values of what can be changed on the host while the container is there. What it holds of memory does not change: the
// guest is made for it. Fields that are not there keep their value. running says that the quota of processor time holds already. State
// has the new values afterwards, undo sets the ones that there were. After an error they are set again.
func (c *Cgroup) Update(change *specs.LinuxResources, running bool) (undo func() error, err error) {
	was := c.options.Resources
	undo = func() error {
		c.options.Resources = Before(was, change)
		err := c.hold(running)
		c.options.Resources = was
		if err != nil {
			return fmt.Errorf("set what there was again: %w", err)
		}
		return nil
	}
	c.options.Resources = Merge(was, change)
	if err := c.hold(running); err != nil {
		return nil, errors.Join(err, undo())
	}
	return undo, nil
}

// hold applies the resources, with the quota of processor time or without it.
func (c *Cgroup) hold(withQuota bool) error {
	r := hostResources(c.options)
	if r.CPUIdle != nil && *r.CPUIdle == 0 && r.CpuShares != 0 && c.has("cpu", "cpu.idle", "cpu.idle") {
		// With cgroup v1 the weight is written before, which one that is idle does not take.
		awake := &cgroups.Resources{CPUIdle: r.CPUIdle}
		withoutDevices(awake)
		if err := c.set(awake); err != nil {
			return err
		}
	}
	if q := quota(c.options.Resources); q != nil && withQuota {
		r.CpuQuota, r.CpuPeriod, r.CpuBurst = q.CpuQuota, q.CpuPeriod, q.CpuBurst
	}
	return c.set(r)
}

// Processes are those in the cgroup and below it, by their pids for the caller, ascending.
func (c *Cgroup) Processes() ([]int, error) {
	var dir string
	for _, controller := range []string{"memory", "pids", "devices", "name=systemd", ""} {
		if dir = c.manager.Path(controller); dir != "" {
			break
		}
	}
	pids, err := cgroups.GetAllPids(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("processes of the host's cgroup: %w", err)
	}
	slices.Sort(pids)
	return slices.Compact(pids), nil
}

// deletePause is between looks at a cgroup that still has processes.
const deletePause = 10 * time.Millisecond

// Delete removes the cgroup and those below it; one that is gone is no error. The kernel keeps a cgroup for as long as it has processes,
// and for a moment after the last: the context says how long to wait.
func (c *Cgroup) Delete(ctx context.Context) error {
	for {
		pids, err := c.Processes()
		if err == nil && len(pids) > 0 {
			err = fmt.Errorf("processes %s are in it", list(pids))
		} else if err == nil {
			// It tries for a second, for each directory.
			err = c.manager.Destroy()
		}
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("remove the host's cgroup: %w", err)
		case <-time.After(deletePause):
		}
	}
}

func list(pids []int) string { return strings.Trim(fmt.Sprint(pids), "[]") }
