package hostcgroup

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	systemd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
	"github.com/opencontainers/cgroups"
)

// scopePrefix is in the name of a scope whose bundle says nothing: runcvm-ID.scope.
const scopePrefix = "runcvm"

// placement says where a cgroup lies, by the rules that engines know from runc.
func placement(o Options) (*cgroups.Cgroup, error) {
	if !o.Systemd {
		if o.Path == "" {
			return &cgroups.Cgroup{Name: o.ID}, nil
		}
		return &cgroups.Cgroup{Path: o.Path}, nil
	}
	c := &cgroups.Cgroup{Systemd: true, ScopePrefix: scopePrefix, Name: o.ID}
	if o.Path != "" {
		parts := strings.Split(o.Path, ":")
		if len(parts) != 3 || parts[2] == "" {
			return nil, fmt.Errorf("linux.cgroupsPath %q: with --systemd-cgroup it is SLICE:PREFIX:NAME, as in system.slice:docker:ID; "+
				"for a path leave --systemd-cgroup out", o.Path)
		}
		c.Parent, c.ScopePrefix, c.Name = parts[0], parts[1], parts[2]
	}
	var err error
	c.SystemdProps, err = scopeProperties(o.Annotations)
	return c, err
}

// propertyAnnotation begins the annotations that are properties of the scope, with values in GVariant's text format.
const propertyAnnotation = "org.systemd.property."

var propertyName = regexp.MustCompile(`^[A-Z][A-Za-z]{2,}$`)

func scopeProperties(annotations map[string]string) ([]systemd.Property, error) {
	var properties []systemd.Property
	var errs []error
	for key, text := range annotations {
		name, ok := strings.CutPrefix(key, propertyAnnotation)
		if !ok {
			continue
		}
		value, err := dbus.ParseVariant(text, dbus.Signature{})
		if err == nil && !propertyName.MatchString(name) {
			err = errors.New("no name of a property of systemd")
		}
		if err == nil {
			name, value, err = inMicroseconds(name, value)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("annotation %s %q: %w", key, text, err))
			continue
		}
		properties = append(properties, systemd.Property{Name: name, Value: value})
	}
	return properties, errors.Join(errs...)
}

// inMicroseconds makes of a time as unit files have it, NAMESec, the NAMEUSec that systemd's bus has.
func inMicroseconds(name string, v dbus.Variant) (string, dbus.Variant, error) {
	stem, ok := strings.CutSuffix(name, "Sec")
	if !ok || strings.HasSuffix(stem, "U") {
		return name, v, nil
	}
	const second = 1_000_000
	switch n := v.Value().(type) {
	case int32:
		return stem + "USec", dbus.MakeVariant(uint64(max(n, 0)) * second), nil
	case uint64:
		return stem + "USec", dbus.MakeVariant(n * second), nil
	case float64:
		return stem + "USec", dbus.MakeVariant(uint64(max(n, 0) * second)), nil
	}
	return "", v, fmt.Errorf("a time is a number of seconds, not a %T", v.Value())
}
