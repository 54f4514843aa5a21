package bundle

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/guestapi"
)

// Copy is a file or a directory of the host's that is copied into the guest at each start, where config.json has a bind mount.
type Copy struct {
	// Source is the path on the host, absolute.
	Source string
	// Destination is the path in the container.
	Destination string
	// Staged is where the guest mounts it from, relative to the root of the container's writable disk.
	Staged string
	// Directory says that it is one, with all below it.
	Directory bool
}

// Copies lists what the guest needs of the host's files at each start.
func (b *Bundle) Copies() []Copy { return slices.Clone(b.copies) }

// KernelTypes are file systems that the guest's kernel makes by itself.
var KernelTypes = []string{"proc", "sysfs", "tmpfs", "ramfs", "devpts", "mqueue", "cgroup", "cgroup2", "securityfs", "debugfs", "tracefs",
	"bpf", "hugetlbfs", "configfs"}

// mountKind is what becomes of a mount.
type mountKind int

const (
	ofKernel     mountKind = iota // made by the guest's kernel
	copied                        // a bind mount whose source is copied at the start
	sharedMemory                  // the engine's own /dev/shm, for which the guest makes one
	refused
)

// kindOf judges one mount; why is for what is refused.
func kindOf(m specs.Mount) (kind mountKind, why string) {
	switch bind := isBind(m); {
	case !bind && slices.Contains(KernelTypes, m.Type):
		return ofKernel, ""
	case !bind:
		return refused, fmt.Sprintf("a file system of type %q has its data on the host; mount it there and give it "+
			"as a read-only bind mount, or mount it in the container (--privileged)", m.Type)
	case hasOption(m, "idmap", "ridmap"):
		return refused, "leave its mapping of ids out (idmap): its files are copied with their own owners"
	case path.Clean(m.Destination) == "/dev/shm" && engineFile(m, "shm"):
		return sharedMemory, ""
	case engineFile(m, path.Base(m.Destination)) && slices.Contains(EngineFiles, path.Clean(m.Destination)):
		return copied, ""
	case hasOption(m, "ro", "rro"):
		return copied, ""
	}
	return refused, fmt.Sprintf("%s is bound to %s for writing, and what a guest writes does not reach the host yet; "+
		"make it read-only (:ro), which is copied at the start, or give it as tmpfs", m.Source, m.Destination)
}

func isBind(m specs.Mount) bool {
	return m.Type == "bind" || m.Type == "rbind" || hasOption(m, "bind", "rbind")
}

func hasOption(m specs.Mount, names ...string) bool {
	return slices.ContainsFunc(m.Options, func(o string) bool { return slices.Contains(names, o) })
}

// EngineFiles are what Docker and Podman always bind, writable as well.
var EngineFiles = []string{"/etc/resolv.conf", "/etc/hosts", "/etc/hostname", "/run/.containerenv", "/run/secrets",
	"/var/run/.containerenv", "/var/run/secrets", "/etc/passwd", "/etc/group"}

// containerDir is a directory that an engine has for a container: its name is the container's id, or userdata.
var containerDir = regexp.MustCompile(`/([0-9a-f]{64}|userdata)/`)

// engineFile says whether a mount's source is a file of the engine's of this name, in a directory of a container's.
func engineFile(m specs.Mount, name string) bool {
	return path.Base(m.Source) == name && containerDir.MatchString(m.Source)
}

// contextOptions begin mount options with a label of SELinux, which the guest does not have.
var contextOptions = []string{"context=", "fscontext=", "defcontext=", "rootcontext="}

func isContext(option string) bool {
	return slices.ContainsFunc(contextOptions, func(p string) bool { return strings.HasPrefix(option, p) })
}

func checkMounts(b *Bundle, r *report) {
	for i, m := range b.Spec.Mounts {
		at := fmt.Sprintf("mounts[%d]", i)
		if !path.IsAbs(m.Destination) || path.Clean(m.Destination) == "/" {
			r.refuse(at+".destination", "%q is not an absolute path below /", m.Destination)
			continue
		}
		kind, why := kindOf(m)
		if slices.ContainsFunc(m.Options, isContext) {
			r.note(at+".options", "the label of SELinux is left out, which the guest does not have")
		}
		switch kind {
		case refused:
			r.refuse(at, "%s", why)
		case sharedMemory:
			r.note(at, "%s is the guest's own, of the same size", m.Destination)
		case copied:
			if m.Source == "" {
				r.refuse(at+".source", "it is missing; name what to bind to %s", m.Destination)
				continue
			}
			r.note(at, "%s is copied to %s at the start; later changes on either side stay there", m.Source, m.Destination)
			b.copies = append(b.copies, Copy{
				Source: m.Source, Destination: path.Clean(m.Destination), Staged: path.Join(guestapi.CopiesDir, strconv.Itoa(i)),
			})
		}
	}
}

// lookAtMounts wants the sources of what is copied to be files or directories with data of their own, and finds the sizes of the
// engine's shared memory.
func (b *Bundle) lookAtMounts(r *report) {
	for i, m := range b.Spec.Mounts {
		at := fmt.Sprintf("mounts[%d].source", i)
		switch kind, _ := kindOf(m); kind {
		case sharedMemory:
			var fs unix.Statfs_t
			if err := unix.Statfs(b.onHost(m.Source), &fs); err != nil {
				r.refuse(at, "%s: %s", m.Source, reason(err))
				continue
			}
			b.shm[m.Source] = int64(fs.Blocks) * fs.Bsize
		case copied:
			directory, why := copyable(b.onHost(m.Source))
			if why != "" {
				r.refuse(at, "%s: %s", m.Source, why)
			}
			staged := path.Join(guestapi.CopiesDir, strconv.Itoa(i))
			j := slices.IndexFunc(b.copies, func(c Copy) bool { return c.Staged == staged })
			if j >= 0 {
				b.copies[j].Source, b.copies[j].Directory = b.onHost(m.Source), directory
			}
		}
	}
}

// onHost is a path of config.json on the host: relative ones are the bundle's.
func (b *Bundle) onHost(p string) string {
	if filepath.IsAbs(p) {
		return p
	}
	return filepath.Join(b.Dir, p)
}

// kernelFiles are the file systems whose files are the host's kernel, by their magic numbers (statfs(2)).
var kernelFiles = map[int64]string{
	unix.PROC_SUPER_MAGIC: "/proc", unix.SYSFS_MAGIC: "/sys", unix.CGROUP_SUPER_MAGIC: "its cgroups",
	unix.CGROUP2_SUPER_MAGIC: "its cgroups",
	unix.DEVPTS_SUPER_MAGIC:  "its terminals", unix.DEBUGFS_MAGIC: "its kernel's files", unix.TRACEFS_MAGIC: "its kernel's files",
	unix.SECURITYFS_MAGIC: "its kernel's files", unix.BPF_FS_MAGIC: "its kernel's files", unix.NSFS_MAGIC: "its namespaces",
}

// copyable says whether a copy of the path can stand for it; why not where it cannot.
func copyable(p string) (directory bool, why string) {
	info, err := os.Stat(p)
	if err != nil {
		return false, reason(err)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(p, &fs); err != nil {
		return false, reason(err)
	}
	if what, ok := kernelFiles[fs.Type]; ok {
		return false, fmt.Sprintf("the host's %s, of which a guest has its own; leave the mount out", what)
	}
	switch mode := info.Mode(); {
	case mode.IsDir():
		return true, ""
	case mode.IsRegular():
		return false, ""
	case mode&os.ModeSocket != 0:
		return false, "a socket of the host's, which a copy cannot stand for and a guest does not reach yet; leave it out"
	case mode&os.ModeDevice != 0:
		return false, "a device of the host's, which a guest has no part in; leave it out"
	}
	return false, "neither a file nor a directory, so that a copy cannot stand for it; leave it out"
}

// mounts are what crun mounts in the guest.
func mounts(b *Bundle, s *specs.Spec) {
	for i, m := range b.Spec.Mounts {
		out := specs.Mount{Destination: m.Destination, Type: m.Type, Source: m.Source, Options: slices.Clone(m.Options)}
		out.Options = slices.DeleteFunc(out.Options, isContext)
		switch kind, _ := kindOf(m); kind {
		case ofKernel:
			if out.Type == "cgroup2" {
				out.Type = "cgroup" // the guest's is version 2 whatever it is called, and crun makes it fit the container
			}
			if out.Source == "" {
				out.Source = out.Type
			}
		case copied:
			out.Type, out.Source = "bind", "/"+path.Join(guestapi.CopiesDir, strconv.Itoa(i))
			if !hasOption(out, "bind", "rbind") {
				out.Options = append(out.Options, "rbind")
			}
		case sharedMemory:
			out.Type, out.Source = "tmpfs", "shm"
			out.Options = slices.DeleteFunc(out.Options, func(o string) bool { return o == "bind" || o == "rbind" })
			out.Options = append(out.Options, "mode=1777")
			if size := b.shm[m.Source]; size > 0 {
				out.Options = append(out.Options, "size="+strconv.FormatInt(size, 10))
			}
		}
		s.Mounts = append(s.Mounts, out)
	}
}
