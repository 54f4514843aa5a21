package oci

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// defaultSysctls is what Docker sets in a container's network namespace, here the guest's: ping and ports below 1024 without a
// capability (moby, daemon/oci_linux.go).
var defaultSysctls = map[string]string{
	"net.ipv4.ping_group_range":           "0 2147483647",
	"net.ipv4.ip_unprivileged_port_start": "0",
}

var sysctlPattern = regexp.MustCompile(`^[A-Za-z0-9_-]+([./][A-Za-z0-9_.-]+)+$`)

// checkSysctls refuses what is no kernel parameter, or has a flag of its own. Unlike Docker's host, the guest's kernel is the
// container's alone: so every parameter can be set, also those that no namespace has.
func checkSysctls(sysctls map[string]string) []error {
	var errs []error
	for _, key := range slices.Sorted(maps.Keys(sysctls)) {
		switch name, err := SysctlName(key); {
		case err != nil:
			errs = append(errs, fmt.Errorf("--sysctl %q: %w; write NAME=VALUE, as in net.core.somaxconn=1024", key, err))
		case name == HostnameSysctl:
			errs = append(errs, fmt.Errorf("--sysctl %s: give --hostname instead", key))
		case name == DomainnameSysctl:
			errs = append(errs, fmt.Errorf("--sysctl %s: give --domainname instead", key))
		}
	}
	return errs
}

const (
	// HostnameSysctl is the host name of a container.
	HostnameSysctl = "kernel.hostname"
	// DomainnameSysctl is the NIS domain name of a container.
	DomainnameSysctl = "kernel.domainname"
)

// SysctlName is a kernel parameter's name as the guest's specification has it: with dots, wherever that is unambiguous.
func SysctlName(key string) (string, error) {
	path := sysctlPath(key)
	if !sysctlPattern.MatchString(key) || strings.Contains(path, "..") || strings.Contains(path, "//") {
		return "", errors.New("no name of a kernel parameter")
	}
	if !strings.Contains(path, ".") {
		path = strings.ReplaceAll(path, "/", ".")
	}
	return path, nil
}

// sysctlPath is a parameter's path below /proc/sys. As in sysctl(8), the first of dot and slash in a name separates, and the other
// then stands for itself in exchange.
func sysctlPath(key string) string {
	if i := strings.IndexAny(key, "./"); i >= 0 && key[i] == '.' {
		return strings.Map(func(r rune) rune {
			switch r {
			case '.':
				return '/'
			case '/':
				return '.'
			}
			return r
		}, key)
	}
	return key
}

func sysctls(c Container, s *specs.Spec) {
	s.Linux.Sysctl = map[string]string{}
	set := func(key, value string) {
		if name, err := SysctlName(key); err == nil { // Check has refused the others
			s.Linux.Sysctl[name] = value
		}
	}
	for key, value := range defaultSysctls {
		set(key, value)
	}
	if c.Domainname != "" {
		set(DomainnameSysctl, c.Domainname)
	}
	for key, value := range c.Sysctls {
		set(key, value)
	}
}
