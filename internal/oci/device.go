package oci

import (
	"fmt"
	"regexp"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// deviceRules is what of the guest's devices the container may use: all where it is privileged, otherwise mknod, the devices that
// every container has, and those that the user has named.
func deviceRules(c Container) []specs.LinuxDeviceCgroup {
	if c.Privileged {
		return []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
	}
	rules := append([]specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}, EveryContainersDevices()...)
	for _, text := range c.DeviceRules {
		if rule, err := parseDeviceRule(text); err == nil { // Check has refused the others
			rules = append(rules, rule)
		}
	}
	return rules
}

// EveryContainersDevices are the rules for the devices that every container may use, whatever else is denied: as in runc, mknod,
// and what is in every /dev.
func EveryContainersDevices() []specs.LinuxDeviceCgroup {
	rules := []specs.LinuxDeviceCgroup{
		{Allow: true, Type: "c", Access: "m"},
		{Allow: true, Type: "b", Access: "m"},
	}
	for _, d := range [][2]int64{
		{1, 3}, {1, 5}, {1, 7}, {1, 8}, {1, 9}, // null, zero, full, random, urandom
		{5, 0}, {5, 1}, {5, 2}, {136, anyNumber}, // tty, console, ptmx, pts
	} {
		rules = append(rules, deviceRule("c", d[0], d[1], "rwm"))
	}
	return rules
}

// anyNumber is every major or minor number.
const anyNumber = -1

func deviceRule(kind string, major, minor int64, access string) specs.LinuxDeviceCgroup {
	rule := specs.LinuxDeviceCgroup{Allow: true, Type: kind, Access: access}
	if major != anyNumber {
		rule.Major = &major
	}
	if minor != anyNumber {
		rule.Minor = &minor
	}
	return rule
}

// deviceRulePattern is Docker's (moby, oci/oci.go).
var deviceRulePattern = regexp.MustCompile(`^([acb]) ([0-9]{1,9}|\*):([0-9]{1,9}|\*) ([rwm]{1,3})$`)

func parseDeviceRule(text string) (specs.LinuxDeviceCgroup, error) {
	m := deviceRulePattern.FindStringSubmatch(text)
	if m == nil {
		return specs.LinuxDeviceCgroup{}, fmt.Errorf("--device-cgroup-rule %q: write TYPE MAJOR:MINOR ACCESS, as in \"c 10:229 rwm\"", text)
	}
	number := func(s string) int64 {
		if s == "*" {
			return anyNumber
		}
		n, _ := strconv.ParseInt(s, 10, 64) // digits by the pattern
		return n
	}
	return deviceRule(m[1], number(m[2]), number(m[3]), m[4]), nil
}
