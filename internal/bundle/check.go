package bundle

import (
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/runcvm/runcvm/internal/guestapi"
	"github.com/runcvm/runcvm/internal/oci"
)

// check looks at one thing that a row of Fields cannot say.
type check func(*Bundle, *report)

var checks = []check{
	checkVersion, checkProcess, checkCapabilities, checkRoot, checkNames, checkHooks, checkAnnotations, checkNamespaces, checkMounts,
	checkDevices, checkSeccomp, checkSysctls, checkResources, checkPaths,
}

// versionPattern is of a version of the specification (SemVer 2.0.0), of which the major one decides.
var versionPattern = regexp.MustCompile(`^1\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)([-+][0-9A-Za-z.+-]*)?$`)

// checkVersion takes what runc takes: all that calls itself 1.x.
func checkVersion(b *Bundle, r *report) {
	switch v := b.Spec.Version; {
	case v == "":
		r.refuse("ociVersion", "it is missing; write %q", oci.GuestSpecVersion)
	case !versionPattern.MatchString(v):
		r.refuse("ociVersion", "%q is not a version of the runtime specification that begins with 1; write %q", v, oci.GuestSpecVersion)
	}
}

func checkProcess(b *Bundle, r *report) {
	p := b.Spec.Process
	if p == nil {
		r.refuse("process", "it is missing; without it there is nothing to run")
		return
	}
	checkOneProcess(p, r)
}

// checkOneProcess looks at a container's own process, or at a further one.
func checkOneProcess(p *specs.Process, r *report) {
	if len(p.Args) == 0 || p.Args[0] == "" {
		r.refuse("process.args", "there is no command; give at least a program")
	}
	if !path.IsAbs(p.Cwd) {
		r.refuse("process.cwd", "%q is not an absolute path", p.Cwd)
	}
	if err := oci.CheckText(oci.Container{Args: p.Args, Env: p.Env, Cwd: p.Cwd}); err != nil {
		r.refuse("process", "%v", err)
	}
	if c := p.ConsoleSize; c != nil && (c.Height > maxConsole || c.Width > maxConsole) {
		r.refuse("process.consoleSize", "%d by %d; each is at most %d", c.Height, c.Width, maxConsole)
	}
	if adj := p.OOMScoreAdj; adj != nil && (*adj < -1000 || *adj > 1000) {
		r.refuse("process.oomScoreAdj", "%d; it is from -1000 to 1000", *adj)
	}
	seen := map[string]bool{}
	for i, l := range p.Rlimits {
		at := fmt.Sprintf("process.rlimits[%d].type", i)
		switch {
		case !slices.Contains(rlimits, l.Type):
			r.refuse(at, "%q is no resource limit of Linux; see getrlimit(2)", l.Type)
		case seen[l.Type]:
			r.refuse(at, "%s is there already", l.Type)
		}
		seen[l.Type] = true
	}
}

// maxConsole is the most that a terminal's size holds (struct winsize).
const maxConsole = 65535

// rlimits are those of getrlimit(2).
var rlimits = []string{"RLIMIT_AS", "RLIMIT_CORE", "RLIMIT_CPU", "RLIMIT_DATA", "RLIMIT_FSIZE", "RLIMIT_LOCKS", "RLIMIT_MEMLOCK",
	"RLIMIT_MSGQUEUE", "RLIMIT_NICE", "RLIMIT_NOFILE", "RLIMIT_NPROC", "RLIMIT_RSS", "RLIMIT_RTPRIO", "RLIMIT_RTTIME",
	"RLIMIT_SIGPENDING", "RLIMIT_STACK"}

// checkCapabilities notes names that the guest's kernel does not have: an engine may be newer than it. As in runc, they are left out.
func checkCapabilities(b *Bundle, r *report) {
	if b.Spec.Process == nil || b.Spec.Process.Capabilities == nil {
		return
	}
	var unknown []string
	for _, set := range capabilitySets(b.Spec.Process.Capabilities) {
		for _, name := range *set {
			if !oci.IsCapability(name) && !slices.Contains(unknown, name) {
				unknown = append(unknown, name)
			}
		}
	}
	if len(unknown) > 0 {
		r.note("process.capabilities", "left out, since the guest's kernel has none of this name: %s", strings.Join(unknown, ", "))
	}
}

func checkRoot(b *Bundle, r *report) {
	if b.Spec.Root == nil || b.Spec.Root.Path == "" {
		r.refuse("root.path", "it is missing; name the directory of the container's root file system")
	}
}

func checkNames(b *Bundle, r *report) {
	if err := oci.CheckText(oci.Container{Hostname: b.Spec.Hostname, Domainname: b.Spec.Domainname}); err != nil {
		r.refuse("hostname", "%v", err)
	}
}

// mountingHooks are programs that engines are set up with whose effect is a device or a mount in the container.
var mountingHooks = []string{"nvidia-container-runtime-hook", "nvidia-container-toolkit", "nvidia-container-cli", "nvidia-ctk",
	"nvidia-cdi-hook", "oci-systemd-hook", "oci-umount", "oci-register-machine"}

// checkHooks refuses hooks whose effect cannot reach a guest, and what the specification forbids.
func checkHooks(b *Bundle, r *report) {
	if b.Spec.Hooks == nil {
		return
	}
	for _, kind := range hookKinds {
		for i, h := range *kind.of(b.Spec.Hooks) {
			at := fmt.Sprintf("hooks.%s[%d]", kind.name, i)
			if !path.IsAbs(h.Path) {
				r.refuse(at+".path", "%q is not an absolute path", h.Path)
			}
			if h.Timeout != nil && *h.Timeout <= 0 {
				r.refuse(at+".timeout", "%d; it is a number of seconds above 0", *h.Timeout)
			}
			if slices.Contains(mountingHooks, path.Base(h.Path)) && kind.name != "startContainer" {
				r.refuse(at, "%s puts devices or mounts of the host into a container, which a guest has its own of; leave it out", h.Path)
			}
		}
	}
}

// hookKinds are the hooks by their names.
var hookKinds = []struct {
	name string
	of   func(*specs.Hooks) *[]specs.Hook
}{
	{"prestart", func(h *specs.Hooks) *[]specs.Hook { return &h.Prestart }}, //nolint:staticcheck // what Docker up to 25 uses
	{"createRuntime", func(h *specs.Hooks) *[]specs.Hook { return &h.CreateRuntime }},
	{"createContainer", func(h *specs.Hooks) *[]specs.Hook { return &h.CreateContainer }},
	{"startContainer", func(h *specs.Hooks) *[]specs.Hook { return &h.StartContainer }},
	{"poststart", func(h *specs.Hooks) *[]specs.Hook { return &h.Poststart }},
	{"poststop", func(h *specs.Hooks) *[]specs.Hook { return &h.Poststop }},
}

// crunAnnotations begins the annotations by which crun takes instructions.
const crunAnnotations = "run.oci."

// checkAnnotations keeps the guest's own instructions to its agent and its crun from coming with a bundle.
func checkAnnotations(b *Bundle, r *report) {
	for _, key := range slices.Sorted(maps.Keys(b.Spec.Annotations)) {
		at := fmt.Sprintf("annotations[%q]", key)
		switch {
		case key == "":
			r.refuse(at, "an annotation needs a name")
		case strings.HasPrefix(key, guestapi.AnnotationPrefix):
			r.refuse(at, "names that begin with %s are RunCVM's own; give it another", guestapi.AnnotationPrefix)
		case strings.HasPrefix(key, crunAnnotations):
			r.note(at, "an instruction for crun on the host; not passed on")
		}
	}
}

// checkSeccomp refuses what the guest's crun could not do.
func checkSeccomp(b *Bundle, r *report) {
	if b.Spec.Linux == nil || b.Spec.Linux.Seccomp == nil {
		return
	}
	p := b.Spec.Linux.Seccomp
	profile := *p
	profile.ListenerPath = "" // its row refuses it
	if err := oci.CheckProfile(&profile); err != nil {
		r.refuse("linux.seccomp", "%v", err)
	}
	for i, flag := range p.Flags {
		if !slices.Contains(seccompFlags, flag) {
			r.refuse(fmt.Sprintf("linux.seccomp.flags[%d]", i), "%q is unknown; known are %q", flag, seccompFlags)
		}
	}
}

// seccompFlags are those of crun 1.8.
var seccompFlags = []specs.LinuxSeccompFlag{"SECCOMP_FILTER_FLAG_TSYNC", specs.LinuxSeccompFlagLog, specs.LinuxSeccompFlagSpecAllow,
	specs.LinuxSeccompFlagWaitKillableRecv}

func checkSysctls(b *Bundle, r *report) {
	if b.Spec.Linux == nil {
		return
	}
	for _, key := range slices.Sorted(maps.Keys(b.Spec.Linux.Sysctl)) {
		at := fmt.Sprintf("linux.sysctl[%q]", key)
		switch name, err := oci.SysctlName(key); {
		case err != nil:
			r.refuse(at, "%v; write one as in net.core.somaxconn", err)
		case name == oci.HostnameSysctl:
			r.refuse(at, "give hostname instead")
		case name == oci.DomainnameSysctl && b.Spec.Domainname != "" && b.Spec.Domainname != b.Spec.Linux.Sysctl[key]:
			r.refuse(at, "it contradicts domainname, which is %q; leave one of them out", b.Spec.Domainname)
		}
	}
}

// unifiedFiles are the controllers whose files of cgroup v2 mean the same in a guest.
var unifiedFiles = []string{"cpu.", "memory.", "pids."}

func checkResources(b *Bundle, r *report) {
	if b.Spec.Linux == nil || b.Spec.Linux.Resources == nil {
		return
	}
	res := b.Spec.Linux.Resources
	for _, key := range slices.Sorted(maps.Keys(res.Unified)) {
		ours := func(prefix string) bool { return strings.HasPrefix(key, prefix) }
		if !slices.ContainsFunc(unifiedFiles, ours) || strings.Contains(key, "/") {
			r.refuse(fmt.Sprintf("linux.resources.unified[%q]", key), "in a guest only files of %s mean what they say; "+
				"give the limit by a field of its own under linux.resources", strings.Join(unifiedFiles, ", "))
		}
	}
	if c := res.CPU; c != nil {
		checkProcessorTime(c, r)
		if _, err := (oci.Limits{CPUSet: c.Cpus}).CPUList(); err != nil {
			r.refuse("linux.resources.cpu.cpus", "%q; a list of processors like 0-2,4, of which a guest can have %d", c.Cpus, oci.MaxCPUs)
		}
	}
	for i, d := range res.Devices {
		if !slices.Contains([]string{"", "a", "b", "c"}, d.Type) {
			r.refuse(fmt.Sprintf("linux.resources.devices[%d].type", i), "%q; it is a, b or c", d.Type)
		}
	}
}

// CheckProcessorTime refuses a quota or a period that the kernel does not take.
func CheckProcessorTime(c *specs.LinuxCPU) error {
	r := &report{}
	checkProcessorTime(c, r)
	return r.err()
}

func checkProcessorTime(c *specs.LinuxCPU, r *report) {
	if c.Quota != nil && *c.Quota > 0 && *c.Quota < minPeriod {
		r.refuse("linux.resources.cpu.quota", "%d; it is at least %d (microseconds)", *c.Quota, minPeriod)
	}
	// 0 is the kernel's default.
	if c.Period != nil && *c.Period != 0 && (*c.Period < minPeriod || *c.Period > maxPeriod) {
		r.refuse("linux.resources.cpu.period", "%d; it is from %d to %d (microseconds)", *c.Period, minPeriod, maxPeriod)
	}
}

// minPeriod and maxPeriod bound the period of a limit of processor time in microseconds, and minPeriod the quota
// (min_cfs_quota_period and max_cfs_quota_period in the kernel's kernel/sched).
const minPeriod, maxPeriod = 1000, 1_000_000

// checkPaths wants paths in the container to be whole.
func checkPaths(b *Bundle, r *report) {
	if b.Spec.Linux == nil {
		return
	}
	for name, list := range map[string][]string{"maskedPaths": b.Spec.Linux.MaskedPaths, "readonlyPaths": b.Spec.Linux.ReadonlyPaths} {
		for i, p := range list {
			if !path.IsAbs(p) {
				r.refuse(fmt.Sprintf("linux.%s[%d]", name, i), "%q is not an absolute path", p)
			}
		}
	}
	if p := b.Spec.Linux.RootfsPropagation; p != "" && !slices.Contains(propagations, strings.TrimPrefix(p, "r")) {
		r.refuse("linux.rootfsPropagation", "%q; it is one of %q, or one of these with r before it", p, propagations)
	}
	if p := b.Spec.Linux.Personality; p != nil && p.Domain != specs.PerLinux && p.Domain != specs.PerLinux32 {
		r.refuse("linux.personality.domain", "%q; it is %s or %s", p.Domain, specs.PerLinux, specs.PerLinux32)
	}
}

var propagations = []string{"private", "shared", "slave", "unbindable"}
