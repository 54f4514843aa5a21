package bundle

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/runcvm/runcvm/internal/oci"
)

// transformer adds one aspect of a bundle to the guest's specification.
type transformer func(*Bundle, *specs.Spec)

// chain is applied in this order.
var chain = []transformer{process, annotations, root, hooks, mounts, namespaces, security, sysctls, resources, devices}

// GuestSpec builds the specification that crun gets in the guest, field by field. process.args stays empty: the agent fills it from
// the entrypoint file of the container's own disk.
func (b *Bundle) GuestSpec() (*specs.Spec, error) {
	s := &specs.Spec{
		Version: oci.GuestSpecVersion, Hostname: b.Spec.Hostname, Annotations: map[string]string{},
		Linux: &specs.Linux{Resources: &specs.LinuxResources{}},
	}
	for _, t := range chain {
		t(b, s)
	}
	return s, nil
}

// GuestProcess builds what crun gets in the guest of a further process, with its command. All faults are in one error; notes say what
// is met otherwise.
func GuestProcess(p *specs.Process) (out *specs.Process, notes []string, err error) {
	b := &Bundle{Spec: &specs.Spec{Process: p}}
	r := b.judge()
	checkOneProcess(p, r)
	checkCapabilities(b, r)
	if err := r.err(); err != nil {
		return nil, nil, err
	}
	out = guestProcess(p)
	out.Args = slices.Clone(p.Args)
	return out, r.notes, nil
}

func process(b *Bundle, s *specs.Spec) { s.Process = guestProcess(b.Spec.Process) }

func guestProcess(p *specs.Process) *specs.Process {
	out := &specs.Process{
		Terminal: p.Terminal, Env: slices.Clone(p.Env), Cwd: p.Cwd, NoNewPrivileges: p.NoNewPrivileges, OOMScoreAdj: p.OOMScoreAdj,
		User: specs.User{UID: p.User.UID, GID: p.User.GID, Umask: p.User.Umask, AdditionalGids: slices.Clone(p.User.AdditionalGids)},
	}
	if p.Terminal && p.ConsoleSize != nil {
		out.ConsoleSize = &specs.Box{Height: p.ConsoleSize.Height, Width: p.ConsoleSize.Width}
	}
	for _, l := range p.Rlimits {
		out.Rlimits = append(out.Rlimits, specs.POSIXRlimit{Type: l.Type, Hard: l.Hard, Soft: l.Soft})
	}
	if p.Capabilities != nil {
		out.Capabilities = &specs.LinuxCapabilities{}
		theirs := capabilitySets(p.Capabilities)
		for i, set := range capabilitySets(out.Capabilities) {
			*set = slices.DeleteFunc(slices.Clone(*theirs[i]), func(name string) bool { return !oci.IsCapability(name) })
		}
	}
	return out
}

func capabilitySets(c *specs.LinuxCapabilities) []*[]string {
	return []*[]string{&c.Bounding, &c.Effective, &c.Inheritable, &c.Permitted, &c.Ambient}
}

// annotations go to the guest for hooks that run there.
func annotations(b *Bundle, s *specs.Spec) {
	maps.Copy(s.Annotations, b.Spec.Annotations)
	maps.DeleteFunc(s.Annotations, func(key, _ string) bool { return strings.HasPrefix(key, crunAnnotations) })
}

func root(b *Bundle, s *specs.Spec) {
	// The agent mounts the overlay at its bundle's rootfs.
	s.Root = &specs.Root{Path: "rootfs", Readonly: b.Spec.Root.Readonly}
}

// hooks are those that run in the container; the others are the host's.
func hooks(b *Bundle, s *specs.Spec) {
	if b.Spec.Hooks == nil || len(b.Spec.Hooks.StartContainer) == 0 {
		return
	}
	s.Hooks = &specs.Hooks{}
	for _, h := range b.Spec.Hooks.StartContainer {
		s.Hooks.StartContainer = append(s.Hooks.StartContainer,
			specs.Hook{Path: h.Path, Args: slices.Clone(h.Args), Env: slices.Clone(h.Env), Timeout: h.Timeout})
	}
}

func namespaces(_ *Bundle, s *specs.Spec) { s.Linux.Namespaces = oci.GuestNamespaces() }

func security(b *Bundle, s *specs.Spec) {
	l := b.Spec.Linux
	s.Linux.Seccomp = guestSeccomp(l.Seccomp)
	s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = slices.Clone(l.MaskedPaths), slices.Clone(l.ReadonlyPaths)
	s.Linux.RootfsPropagation = l.RootfsPropagation
	if l.Personality != nil {
		s.Linux.Personality = &specs.LinuxPersonality{Domain: l.Personality.Domain}
	}
}

func guestSeccomp(p *specs.LinuxSeccomp) *specs.LinuxSeccomp {
	if p == nil {
		return nil
	}
	out := &specs.LinuxSeccomp{
		DefaultAction: p.DefaultAction, DefaultErrnoRet: p.DefaultErrnoRet,
		Architectures: slices.Clone(p.Architectures), Flags: slices.Clone(p.Flags),
	}
	for _, c := range p.Syscalls {
		call := specs.LinuxSyscall{Names: slices.Clone(c.Names), Action: c.Action, ErrnoRet: c.ErrnoRet}
		for _, a := range c.Args {
			call.Args = append(call.Args, specs.LinuxSeccompArg{Index: a.Index, Value: a.Value, ValueTwo: a.ValueTwo, Op: a.Op})
		}
		out.Syscalls = append(out.Syscalls, call)
	}
	return out
}

func sysctls(b *Bundle, s *specs.Spec) {
	s.Linux.Sysctl = map[string]string{}
	for key, value := range b.Spec.Linux.Sysctl {
		if name, err := oci.SysctlName(key); err == nil { // checkSysctls has refused the others
			s.Linux.Sysctl[name] = value
		}
	}
	if b.Spec.Domainname != "" {
		s.Linux.Sysctl[oci.DomainnameSysctl] = b.Spec.Domainname
	}
}

// resources are the limits that the guest's cgroup enforces; those of the host's are the monitor's.
func resources(b *Bundle, s *specs.Spec) {
	r := b.Spec.Linux.Resources
	if r == nil {
		return
	}
	out := s.Linux.Resources
	if m := r.Memory; m != nil {
		out.Memory = &specs.LinuxMemory{Limit: limit(m.Limit), Reservation: limit(m.Reservation), Swap: limit(m.Swap)}
		if out.Memory.Limit == nil {
			out.Memory.Swap = nil // it is the sum of memory and swap, which the guest has none of
		}
	}
	if c := r.CPU; c != nil {
		out.CPU = &specs.LinuxCPU{Shares: nonzero(c.Shares), Quota: limit(c.Quota), Period: nonzero(c.Period), Idle: nonzero(c.Idle)}
	}
	if p := r.Pids; p != nil {
		out.Pids = &specs.LinuxPids{Limit: limit(p.Limit)}
	}
	out.Unified = maps.Clone(r.Unified)
	if c := r.CPU; c != nil && nonzero(c.Burst) != nil && out.Unified[burstFile] == "" {
		if out.Unified == nil {
			out.Unified = map[string]string{}
		}
		out.Unified[burstFile] = strconv.FormatUint(*c.Burst, 10)
	}
}

// burstFile is the file of cgroup v2 for linux.resources.cpu.burst, which crun 1.8 does not know.
const burstFile = "cpu.max.burst"

// nonzero leaves a number out that is 0: engines write one for what was not asked for.
func nonzero[T int64 | uint64](n *T) *T {
	if n == nil || *n == 0 {
		return nil
	}
	v := *n
	return &v
}

func limit(n *int64) *int64 { return nonzero(n) }
