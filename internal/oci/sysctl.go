package oci

import (
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
		switch path := sysctlPath(key); {
		case !sysctlPattern.MatchString(key) || strings.Contains(path, "..") || strings.Contains(path, "//"):
			errs = append(errs,
				fmt.Errorf("--sysctl %q: no name of a kernel parameter; write NAME=VALUE, as in net.core.somaxconn=1024", key))
		case path == "kernel/hostname":
			errs = append(errs, fmt.Errorf("--sysctl %s: give --hostname instead", key))
		case path == "kernel/domainname":
			errs = append(errs, fmt.Errorf("--sysctl %s: give --domainname instead", key))
		}
	}
	return errs
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
		name := sysctlPath(key)
		if !strings.Contains(name, ".") {
			name = strings.ReplaceAll(name, "/", ".") // as the specification writes it, wherever that is unambiguous
		}
		s.Linux.Sysctl[name] = value
	}
	for key, value := range defaultSysctls {
		set(key, value)
	}
	if c.Domainname != "" {
		set("kernel.domainname", c.Domainname)
	}
	for key, value := range c.Sysctls {
		set(key, value)
	}
}
