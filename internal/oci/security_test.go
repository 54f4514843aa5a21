package oci

import (
	"errors"
	"slices"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func specOf(t *testing.T, o Options) *specs.Spec {
	t.Helper()
	if err := o.Check(); err != nil {
		t.Fatal(err)
	}
	o.Cmd = []string{"true"}
	c, err := Resolve(ocispec.ImageConfig{}, o)
	if err != nil {
		t.Fatal(err)
	}
	return Spec(c)
}

func TestCapabilitiesFollowDockersRules(t *testing.T) {
	without := func(list []string, names ...string) []string {
		return slices.DeleteFunc(slices.Clone(list), func(c string) bool { return slices.Contains(names, c) })
	}
	for name, c := range map[string]struct {
		security Security
		want     []string
	}{
		"default":          {Security{}, defaultCapabilities},
		"added":            {Security{CapAdd: []string{"sys_admin", "CAP_CHOWN"}}, append(slices.Clone(defaultCapabilities), "CAP_SYS_ADMIN")},
		"dropped":          {Security{CapDrop: []string{"Chown"}}, without(defaultCapabilities, "CAP_CHOWN")},
		"all dropped":      {Security{CapDrop: []string{"all"}}, nil},
		"only one":         {Security{CapDrop: []string{"ALL"}, CapAdd: []string{"KILL"}}, []string{"CAP_KILL"}},
		"all":              {Security{CapAdd: []string{"ALL"}}, capabilities},
		"all but one":      {Security{CapAdd: []string{"ALL"}, CapDrop: []string{"BPF"}}, without(capabilities, "CAP_BPF")},
		"all of both":      {Security{CapAdd: []string{"ALL"}, CapDrop: []string{"ALL"}}, capabilities},
		"added, dropped":   {Security{CapAdd: []string{"KILL"}, CapDrop: []string{"KILL"}}, append(without(defaultCapabilities, "CAP_KILL"), "CAP_KILL")},
		"privileged":       {Security{Privileged: true, CapDrop: []string{"ALL"}}, capabilities},
		"added two times":  {Security{CapAdd: []string{"SYSLOG", "CAP_SYSLOG"}}, append(slices.Clone(defaultCapabilities), "CAP_SYSLOG")},
		"nothing to throw": {Security{CapDrop: []string{"SYSLOG"}}, defaultCapabilities},
	} {
		s := specOf(t, Options{Security: c.security})
		for kind, got := range map[string][]string{
			"bounding": s.Process.Capabilities.Bounding, "effective": s.Process.Capabilities.Effective, "permitted": s.Process.Capabilities.Permitted,
		} {
			if !slices.Equal(got, c.want) {
				t.Errorf("%s: %s is %v, want %v", name, kind, got, c.want)
			}
		}
		if s.Process.Capabilities.Inheritable != nil || s.Process.Capabilities.Ambient != nil {
			t.Errorf("%s: inheritable or ambient capabilities", name)
		}
	}
}

// allowed says whether a profile lets a system call through whatever its arguments are.
func allowed(p *specs.LinuxSeccomp, call string) bool {
	if p == nil {
		return true
	}
	for _, s := range p.Syscalls {
		if slices.Contains(s.Names, call) && len(s.Args) == 0 {
			return s.Action == specs.ActAllow
		}
	}
	return p.DefaultAction == specs.ActAllow
}

func TestTheSeccompProfileIsDockersForTheCapabilities(t *testing.T) {
	for name, c := range map[string]struct {
		security    Security
		mount, read bool
	}{
		"default":                 {Security{}, false, true},
		"with CAP_SYS_ADMIN":      {Security{CapAdd: []string{"SYS_ADMIN"}}, true, true},
		"privileged":              {Security{Privileged: true}, true, true},
		"unconfined":              {Security{Seccomp: SeccompUnconfined}, true, true},
		"one's own":               {Security{Seccomp: `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_ERRNO"}]}`}, true, false},
		"one's own if privileged": {Security{Privileged: true, Seccomp: `{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW"}]}`}, false, true},
	} {
		p := specOf(t, Options{Security: c.security}).Linux.Seccomp
		if allowed(p, "mount") != c.mount || allowed(p, "read") != c.read {
			t.Errorf("%s: mount %t, read %t", name, allowed(p, "mount"), allowed(p, "read"))
		}
	}
}

func TestAProfileThatAGuestCannotApplyIsRefused(t *testing.T) {
	for profile, want := range map[string]string{
		"{":                                 "unexpected end",
		`{"syscalls":[{"names":["read"]}]}`: "defaultAction",
		`{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/x"}`:                                                     "listenerPath",
		`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read","write"],"action":"SCMP_ACT_NOTIFY"}]}`:      "SCMP_ACT_NOTIFY of read, write",
		`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"name":"read","action":"SCMP_ACT_ALLOW"}]}`: "both 'name' and 'names'",
	} {
		if err := (Options{Security: Security{Seccomp: profile}}).Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", profile, err)
		}
	}
}

func TestSecurityOptions(t *testing.T) {
	read := func(path string) ([]byte, error) {
		if path == "p.json" {
			return []byte("{}"), nil
		}
		return nil, errors.New("no such profile")
	}
	yes, no := true, false
	for option, want := range map[string]Security{
		"seccomp=p.json": {Seccomp: "{}"}, "seccomp:unconfined": {Seccomp: "unconfined"}, "seccomp=builtin": {},
		"no-new-privileges": {NoNewPrivileges: true}, "no-new-privileges=false": {}, "no-new-privileges:true": {NoNewPrivileges: true},
		"writable-cgroups": {WritableCgroups: &yes}, "writable-cgroups=false": {WritableCgroups: &no},
		"systempaths=unconfined": {OpenSystemPaths: true}, "apparmor=unconfined": {}, "apparmor=docker-default": {}, "label=disable": {}, "disable": {},
	} {
		var got Security
		err := got.SetOption(option, read)
		same := got.Seccomp == want.Seccomp && got.NoNewPrivileges == want.NoNewPrivileges && got.OpenSystemPaths == want.OpenSystemPaths &&
			(got.WritableCgroups == nil) == (want.WritableCgroups == nil) && (got.WritableCgroups == nil || *got.WritableCgroups == *want.WritableCgroups)
		if err != nil || !same {
			t.Errorf("%s: %+v, %v", option, got, err)
		}
	}
	for _, option := range []string{"", "seccomp", "seccomp=", "seccomp=other.json", "no-new-privileges=perhaps", "writable-cgroups=x", "systempaths=x",
		"apparmor=mine", "label=level:s0", "credentialspec=file://x", "something=else"} {
		if err := new(Security).SetOption(option, read); err == nil || !strings.Contains(err.Error(), `--security-opt "`+option+`"`) {
			t.Errorf("%q: %v", option, err)
		}
	}
}

func TestPrivilegeOpensTheGuestsOwnFiles(t *testing.T) {
	for name, c := range map[string]struct {
		security     Security
		sys, cgroups bool // writable
		paths        bool // masked and read-only ones
	}{
		"default":          {Security{}, false, false, true},
		"privileged":       {Security{Privileged: true}, true, true, false},
		"system paths":     {Security{OpenSystemPaths: true}, false, false, false},
		"writable cgroups": {Security{WritableCgroups: new(true)}, false, true, true},
		"privileged but":   {Security{Privileged: true, WritableCgroups: new(false)}, true, false, false},
	} {
		s := specOf(t, Options{Security: c.security})
		writable := func(destination string) bool {
			i := slices.IndexFunc(s.Mounts, func(m specs.Mount) bool { return m.Destination == destination })
			return !slices.Contains(s.Mounts[i].Options, "ro")
		}
		if writable("/sys") != c.sys || writable("/sys/fs/cgroup") != c.cgroups || (len(s.Linux.MaskedPaths) > 0) != c.paths ||
			(len(s.Linux.ReadonlyPaths) > 0) != c.paths {
			t.Errorf("%s: %+v, masked %v", name, s.Mounts, s.Linux.MaskedPaths)
		}
		if all := len(s.Linux.Resources.Devices) == 1; all != c.security.Privileged {
			t.Errorf("%s: devices %+v", name, s.Linux.Resources.Devices)
		}
	}
}

func TestAProfileThatCannotBeUsedIsNotNone(t *testing.T) {
	image := ocispec.ImageConfig{Cmd: []string{"true"}}
	for name, s := range map[string]Security{
		"no profile":            {Seccomp: "nonsense"},
		"without an action":     {Seccomp: `{"syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW"}]}`},
		"no capability":         {CapDrop: []string{"NONSENSE"}},
		"privileged and broken": {Privileged: true, Seccomp: "nonsense"},
	} {
		if _, err := Resolve(image, Options{Security: s}); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func TestKernelParametersByEitherSeparator(t *testing.T) {
	s := specOf(t, Options{Domainname: "example.org", Sysctls: map[string]string{
		"net/core/somaxconn": "7", "net.ipv4.conf.eth0/1.forwarding": "1", "net.ipv4.ip_unprivileged_port_start": "99", "vm.max_map_count": "262144",
	}}).Linux.Sysctl
	for key, want := range map[string]string{"net.core.somaxconn": "7", "net/ipv4/conf/eth0.1/forwarding": "1", "kernel.domainname": "example.org",
		"net.ipv4.ip_unprivileged_port_start": "99", "net.ipv4.ping_group_range": "0 2147483647", "vm.max_map_count": "262144"} {
		if s[key] != want {
			t.Errorf("%s is %q, want %q, of %v", key, s[key], want, s)
		}
	}
	for _, key := range []string{"", "vm", ".x", "a..b", "../x", "net/../../x", "kernel.hostname", "kernel/domainname", "a b.c"} {
		if err := (Options{Sysctls: map[string]string{key: "1"}}).Check(); err == nil {
			t.Errorf("%q was accepted", key)
		}
	}
}
