package oci

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/runcvm/runcvm/internal/guestapi"
)

// transformer adds one aspect of a container to the guest's specification.
type transformer func(Container, *specs.Spec)

// GuestSpecVersion is the version of the specification that the guest's crun gets: Debian 12's crun 1.8.1 refuses those above
// 1.0, and nothing newer is used.
const GuestSpecVersion = "1.0.2"

// chain is applied in this order.
var chain = []transformer{process, security, root, mounts, namespaces, resources, sysctls}

// Spec builds the specification that crun gets in the guest. process.args stays empty: the agent fills it from the
// entrypoint file of the container's own disk.
func Spec(c Container) *specs.Spec {
	s := &specs.Spec{Version: GuestSpecVersion, Annotations: map[string]string{}, Linux: &specs.Linux{}}
	for _, t := range chain {
		t(c, s)
	}
	return s
}

func process(c Container, s *specs.Spec) {
	s.Hostname = c.Hostname
	s.Process = &specs.Process{Env: c.Env, Cwd: c.Cwd}
	maps.Copy(s.Annotations, c.Annotations)
	// Also where it is empty: the root of the container's files may be a member of further groups.
	s.Annotations[guestapi.UserAnnotation] = c.User
	if len(c.Groups) > 0 {
		s.Annotations[guestapi.GroupsAnnotation] = strings.Join(c.Groups, ",")
	}
	if c.Init {
		s.Annotations[guestapi.InitAnnotation] = "true"
	}
	if c.Terminal {
		s.Process.Terminal, s.Process.Env = true, withTerm(c.Env)
	}
	if c.Privileged {
		s.Annotations[guestapi.DevicesAnnotation] = guestapi.GuestDevices
	}
}

func root(c Container, s *specs.Spec) {
	// The agent mounts the overlay at the bundle's rootfs.
	s.Root = &specs.Root{Path: "rootfs", Readonly: c.ReadOnly}
}

func mounts(c Container, s *specs.Spec) {
	writableCgroups := c.Privileged
	if c.WritableCgroups != nil {
		writableCgroups = *c.WritableCgroups
	}
	s.Mounts = []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts",
			Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: access(c.Privileged)},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: access(writableCgroups)},
	}
	if !c.NoShm {
		size := c.ShmSize
		if size == 0 {
			size = defaultShmSize
		}
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/dev/shm", Type: "tmpfs", Source: "shm",
			Options: []string{"nosuid", "noexec", "nodev", "mode=1777", fmt.Sprintf("size=%d", size)}})
	}
	for _, name := range c.EtcFiles {
		options := []string{"bind", "rprivate"}
		if c.ReadOnly {
			options = append(options, "ro")
		}
		s.Mounts = append(s.Mounts, specs.Mount{Destination: path.Join("/etc", name), Type: "bind",
			Source: path.Join("/", guestapi.CopiesDir, name), Options: options})
	}
	for _, t := range c.Tmpfs {
		options := slices.DeleteFunc([]string{"nosuid", "nodev", "noexec"}, func(o string) bool {
			return slices.Contains(t.Options, strings.TrimPrefix(o, "no"))
		})
		options = append(options, t.Options...)
		s.Mounts = append(s.Mounts, specs.Mount{Destination: t.Path, Type: "tmpfs", Source: "tmpfs", Options: options})
	}
}

// access are the options of a file system of the kernel's.
func access(writable bool) []string {
	options := []string{"nosuid", "noexec", "nodev"}
	if !writable {
		options = append(options, "ro")
	}
	return options
}

func namespaces(_ Container, s *specs.Spec) { s.Linux.Namespaces = GuestNamespaces() }

// GuestNamespaces are what a container gets in its guest. The network namespace is the guest's own: the microVM is the container's
// alone.
func GuestNamespaces() []specs.LinuxNamespace {
	var all []specs.LinuxNamespace
	for _, t := range []specs.LinuxNamespaceType{
		specs.PIDNamespace, specs.MountNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.CgroupNamespace,
	} {
		all = append(all, specs.LinuxNamespace{Type: t})
	}
	return all
}
