package bundle

import (
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/runcvm/runcvm/internal/guestapi"
	"github.com/runcvm/runcvm/internal/oci"
)

// device is a device by its numbers.
type device struct {
	kind         string // c or b; u is another word for c
	major, minor int64
}

// guestDevices are those that a guest has too, and that are as good there: each opening of one is a thing of its own, so that none of
// the host's state is missed (Documentation/admin-guide/devices.txt of Linux).
var guestDevices = map[device]string{
	{"c", 1, 3}: "null", {"c", 1, 5}: "zero", {"c", 1, 7}: "full", {"c", 1, 8}: "random", {"c", 1, 9}: "urandom", {"c", 1, 11}: "kmsg",
	{"c", 5, 0}: "tty", {"c", 5, 2}: "ptmx", {"c", 10, 200}: "net/tun", {"c", 10, 203}: "cuse", {"c", 10, 229}: "fuse",
	{"c", 108, 0}: "ppp",
}

// GuestDevices names those that a guest has too, below /dev.
func GuestDevices() []string { return slices.Sorted(maps.Values(guestDevices)) }

func deviceOf(d specs.LinuxDevice) device {
	kind := d.Type
	if kind == "u" {
		kind = "c"
	}
	return device{kind, d.Major, d.Minor}
}

// allDevices says whether the rules of the device cgroup allow everything, as those of a privileged container do.
func allDevices(s *specs.Spec) bool {
	if s.Linux == nil || s.Linux.Resources == nil {
		return false
	}
	all := false
	for _, d := range s.Linux.Resources.Devices {
		any := (d.Type == "" || d.Type == "a") && wild(d.Major) && wild(d.Minor)
		switch {
		case any && d.Allow && len(d.Access) == len("rwm"):
			all = true
		case !d.Allow:
			all = false
		}
	}
	return all
}

func wild(n *int64) bool { return n == nil || *n == -1 }

// checkDevices refuses devices of the host's. A privileged container is given all of the guest's in their place.
func checkDevices(b *Bundle, r *report) {
	if b.Spec.Linux == nil {
		return
	}
	if allDevices(b.Spec) {
		if len(b.Spec.Linux.Devices) > 0 {
			r.note("linux.devices", "privileged: the container has the guest's devices in place of the host's")
		}
		return
	}
	for i, d := range b.Spec.Linux.Devices {
		at := fmt.Sprintf("linux.devices[%d]", i)
		switch _, ok := guestDevices[deviceOf(d)]; {
		case !path.IsAbs(d.Path) || path.Clean(d.Path) == "/":
			r.refuse(at+".path", "%q is not an absolute path below /", d.Path)
		case d.Type == "p": // a FIFO is of the kernel that opens it
		case !slices.Contains([]string{"b", "c", "u"}, d.Type):
			r.refuse(at+".type", "%q; it is b, c, u or p", d.Type)
		case !ok:
			r.refuse(at, "%s (%s %d:%d) is a device of the host's, which a guest has no part in; leave it out, "+
				"or use the guest's own devices (--privileged)", d.Path, d.Type, d.Major, d.Minor)
		}
	}
}

// devices are the nodes and the rules that the container gets of its guest's devices.
func devices(b *Bundle, s *specs.Spec) {
	if allDevices(b.Spec) {
		s.Annotations[guestapi.DevicesAnnotation] = guestapi.GuestDevices
		s.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
		return
	}
	for _, d := range b.Spec.Linux.Devices {
		out := specs.LinuxDevice{Path: d.Path, Type: d.Type, Major: d.Major, Minor: d.Minor, UID: d.UID, GID: d.GID}
		if d.FileMode != nil {
			mode := *d.FileMode & fs.FileMode(permissions) // Podman writes the type of the file too
			out.FileMode = &mode
		}
		s.Linux.Devices = append(s.Linux.Devices, out)
	}
	rules := []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}
	if b.Spec.Linux.Resources != nil {
		for _, d := range b.Spec.Linux.Resources.Devices {
			rules = append(rules, specs.LinuxDeviceCgroup{Allow: d.Allow, Type: d.Type, Major: d.Major, Minor: d.Minor, Access: d.Access})
		}
	}
	s.Linux.Resources.Devices = append(rules, oci.EveryContainersDevices()...)
}

// permissions are the bits of st_mode that are not the file's type.
const permissions = 0o7777
