package oci

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Security is what a container may do in its guest. None of it is the boundary to the host, which is the microVM's.
type Security struct {
	// Privileged lifts everything below, as in Docker; it gives all of the guest and nothing of the host.
	Privileged bool `json:"privileged,omitempty"`
	// CapAdd and CapDrop name capabilities, with or without CAP_, in any case, or ALL.
	CapAdd  []string `json:"cap_add,omitempty"`
	CapDrop []string `json:"cap_drop,omitempty"`
	// Seccomp is the text of a profile in Docker's format; empty is Docker's own, SeccompUnconfined none.
	Seccomp string `json:"seccomp,omitempty"`
	// NoNewPrivileges is prctl(2)'s PR_SET_NO_NEW_PRIVS.
	NoNewPrivileges bool `json:"no_new_privileges,omitempty"`
	// OpenSystemPaths leaves the paths of /proc and /sys alone that are masked or read-only otherwise.
	OpenSystemPaths bool `json:"open_system_paths,omitempty"`
	// WritableCgroups says whether /sys/fs/cgroup can be written; nil is as Privileged.
	WritableCgroups *bool `json:"writable_cgroups,omitempty"`
	// DeviceRules has entries "TYPE MAJOR:MINOR ACCESS", devices that the container may use if it can make their nodes.
	DeviceRules []string `json:"device_rules,omitempty"`
}

// SeccompUnconfined is no seccomp profile.
const SeccompUnconfined = "unconfined"

// Capabilities lists those that a process can have.
func Capabilities() []string { return slices.Clone(capabilities) }

// capabilities are those that Linux 5.9 and later have, by their numbers.
var capabilities = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID",
	"CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW",
	"CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT",
	"CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD",
	"CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL", "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG",
	"CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
}

// defaultCapabilities is Docker's default set (moby, oci/caps/defaults.go), which containerd shares.
var defaultCapabilities = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
	"CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
}

// SetOption applies one value of --security-opt. read gives a seccomp profile's text by its path.
func (s *Security) SetOption(option string, read func(path string) ([]byte, error)) error {
	key, value, given := strings.Cut(option, "=")
	if !given {
		key, value, given = strings.Cut(option, ":")
	}
	fault := func(allowed string) error {
		return fmt.Errorf("--security-opt %q: %s", option, allowed)
	}
	switch key {
	case "seccomp":
		return s.setSeccomp(value, given, read, fault)
	case "no-new-privileges":
		on, err := strconv.ParseBool(value)
		if given && err != nil {
			return fault("no-new-privileges is true or false")
		}
		s.NoNewPrivileges = on || !given
	case "writable-cgroups":
		on, err := strconv.ParseBool(value)
		if given && err != nil {
			return fault("writable-cgroups is true or false")
		}
		on = on || !given
		s.WritableCgroups = &on
	case "systempaths":
		if value != "unconfined" {
			return fault("systempaths can only be unconfined")
		}
		s.OpenSystemPaths = true
	case "apparmor":
		// Docker's own profile keeps a container from its host, which the microVM does.
		if value != "unconfined" && value != "docker-default" {
			return fault("the guest has no AppArmor, so a profile of one's own would not be enforced; leave it out, " +
				"and confine the program with seccomp=FILE and --cap-drop")
		}
	case "label":
		if value != "disable" {
			return fault("the guest has no SELinux, so a label would not be enforced; leave it out: the microVM separates the container")
		}
	case "disable":
	case "credentialspec":
		return fault("it is for Windows containers only")
	default:
		return fault("known are seccomp=FILE|unconfined|builtin, no-new-privileges[=true|false], systempaths=unconfined, " +
			"writable-cgroups[=true|false], apparmor=unconfined, label=disable")
	}
	return nil
}

func (s *Security) setSeccomp(value string, given bool, read func(string) ([]byte, error), fault func(string) error) error {
	switch {
	case !given || value == "":
		return fault("seccomp=FILE, seccomp=unconfined or seccomp=builtin")
	case value == SeccompUnconfined:
		s.Seccomp = SeccompUnconfined
		return nil
	case value == "builtin":
		s.Seccomp = ""
		return nil
	}
	b, err := read(value)
	if err != nil {
		return fault("opening the seccomp profile failed: " + err.Error())
	}
	s.Seccomp = string(b)
	return nil
}

// check lists what is wrong.
func (s Security) check() []error {
	var errs []error
	for flag, names := range map[string][]string{"--cap-add": s.CapAdd, "--cap-drop": s.CapDrop} {
		for _, name := range names {
			if c := capability(name); c != allCapabilities && !IsCapability(c) {
				errs = append(errs, fmt.Errorf("%s %q: no capability of Linux; see capabilities(7) for their names, or ALL", flag, name))
			}
		}
	}
	for _, rule := range s.DeviceRules {
		if _, err := parseDeviceRule(rule); err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) == 0 && s.Seccomp != "" {
		_, err := s.seccomp()
		errs = append(errs, err)
	}
	return errs
}

// IsCapability says whether Linux has a capability of this name, as in CAP_CHOWN.
func IsCapability(name string) bool { return slices.Contains(capabilities, name) }

const allCapabilities = "ALL"

func capability(name string) string {
	name = strings.ToUpper(name)
	if name == allCapabilities || strings.HasPrefix(name, "CAP_") {
		return name
	}
	return "CAP_" + name
}

// caps are the container's capabilities, by Docker's rules.
func (s Security) caps() []string {
	if s.Privileged {
		return capabilities
	}
	has := func(list []string, c string) bool {
		return slices.ContainsFunc(list, func(name string) bool { return capability(name) == c })
	}
	base := defaultCapabilities
	addAll := has(s.CapAdd, allCapabilities)
	if addAll {
		base = capabilities
	}
	var caps []string
	for _, c := range base {
		if !has(s.CapDrop, c) && (addAll || !has(s.CapDrop, allCapabilities)) {
			caps = append(caps, c)
		}
	}
	for _, name := range s.CapAdd {
		if c := capability(name); c != allCapabilities && !addAll && !slices.Contains(caps, c) {
			caps = append(caps, c)
		}
	}
	return caps
}

// seccomp is the container's profile; nil is none. Which system calls Docker's allows depends on the capabilities.
func (s Security) seccomp() (*specs.LinuxSeccomp, error) {
	if s.Privileged && s.Seccomp == "" || s.Seccomp == SeccompUnconfined {
		return nil, nil
	}
	subject := &specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: s.caps()}}}
	if s.Seccomp == "" {
		return seccomp.GetDefaultProfile(subject)
	}
	profile, err := seccomp.LoadProfile(s.Seccomp, subject)
	if err == nil && profile != nil {
		err = CheckProfile(profile)
	}
	if err != nil {
		return nil, fmt.Errorf("--security-opt seccomp: the profile cannot be used: %w", err)
	}
	return profile, nil
}

// CheckProfile refuses what the guest's crun would refuse, or could not do.
func CheckProfile(p *specs.LinuxSeccomp) error {
	if p.DefaultAction == "" {
		return errors.New("defaultAction is missing")
	}
	if p.ListenerPath != "" {
		return errors.New("listenerPath names a socket of the host, which a guest cannot reach")
	}
	for _, call := range p.Syscalls {
		if call.Action == specs.ActNotify {
			return fmt.Errorf("SCMP_ACT_NOTIFY of %s needs a listener on the host, which a guest cannot reach",
				strings.Join(call.Names, ", "))
		}
	}
	return nil
}

func security(c Container, s *specs.Spec) {
	caps := c.caps()
	// Inheritable stays empty, as in Docker since CVE-2022-24769.
	s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}
	s.Process.NoNewPrivileges = c.NoNewPrivileges
	// Check has looked at a profile of the user's; Docker's own has no fault.
	s.Linux.Seccomp, _ = c.seccomp()
	if !c.Privileged && !c.OpenSystemPaths {
		s.Linux.MaskedPaths = slices.Clone(maskedPaths)
		s.Linux.ReadonlyPaths = slices.Clone(readonlyPaths)
	}
}

// Docker's lists (moby, oci/defaults.go).
var (
	maskedPaths = []string{
		"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
	}
	readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)
