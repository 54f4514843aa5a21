package bundle

import (
	"fmt"
	"os"
	"regexp"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Namespace is what becomes of one type of namespace. The guest's kernel is the container's alone, so the host's and other
// containers' cannot be given; of the network, one by path is bound to the guest, and one without a path is made to be.
type Namespace struct {
	Type specs.LinuxNamespaceType
	// flag is the engines' that chooses it.
	flag string
	// Absent is where config.json has none of the type, which means the host's; Fresh where it wants a new one; ByPath where it names
	// one that is there.
	Absent, Fresh, ByPath Place
}

// Namespaces are the types that there are.
var Namespaces = []Namespace{
	{specs.PIDNamespace, "--pid", Refused, Guest, Refused},
	{specs.NetworkNamespace, "--network", Refused, Host, Host},
	{specs.MountNamespace, "--mount", Met, Guest, Refused},
	{specs.IPCNamespace, "--ipc", Refused, Guest, Refused},
	{specs.UTSNamespace, "--uts", Refused, Guest, Refused},
	{specs.CgroupNamespace, "--cgroupns", Met, Guest, Refused},
	{specs.UserNamespace, "--userns", Guest, Refused, Refused},
	// Without offsets it changes nothing, and the crun of Debian 12 cannot make one together with one of pids.
	{specs.TimeNamespace, "--time", Guest, Met, Refused},
}

func checkNamespaces(b *Bundle, r *report) {
	seen := map[specs.LinuxNamespaceType]bool{}
	if b.Spec.Linux != nil {
		for i, ns := range b.Spec.Linux.Namespaces {
			at := fmt.Sprintf("linux.namespaces[%d]", i)
			if seen[ns.Type] {
				r.refuse(at, "there is one of type %q already", ns.Type)
				continue
			}
			seen[ns.Type] = true
			checkNamespace(ns, at, r)
		}
	}
	for _, n := range Namespaces {
		switch {
		case seen[n.Type]:
		case n.Absent == Met:
			r.note("linux.namespaces", "none of type %s is asked for; the container has one of its guest's", n.Type)
		case n.Absent == Refused:
			r.refuse("linux.namespaces", "none of type %s means the host's, which a guest has no part in; "+
				"give it one of its own (no %s host)", n.Type, n.flag)
		}
	}
}

func checkNamespace(ns specs.LinuxNamespace, at string, r *report) {
	i := slices.IndexFunc(Namespaces, func(n Namespace) bool { return n.Type == ns.Type })
	switch {
	case i < 0:
		r.refuse(at, "type %q is unknown; leave it out", ns.Type)
	case ns.Path == "" && Namespaces[i].Fresh == Met:
		r.note(at, "of type %s; the guest's clocks are the container's alone", ns.Type)
	case ns.Path == "" && Namespaces[i].Fresh != Refused:
	case ns.Type == specs.UserNamespace:
		r.refuse(at, "%s", noUserNamespace)
	case Namespaces[i].ByPath == Refused:
		r.refuse(at+".path", "%s: a guest has no part in a %s namespace of the host's; leave it out (no %s container:X)",
			ns.Path, ns.Type, Namespaces[i].flag)
	case processNamespace.MatchString(ns.Path):
		r.refuse(at+".path", "%s is of a running process: the network of another container (--network container:X) or of the host "+
			"cannot be a guest's too; connect both to one network", ns.Path)
	}
}

// processNamespace is the path of a namespace by the process that is in it.
var processNamespace = regexp.MustCompile(`^/proc/([0-9]+|self|thread-self)/(task/[0-9]+/)?ns/net$`)

// NetworkNamespace is the container's network namespace on the host: where it is, or that a new one is to be made.
func (b *Bundle) NetworkNamespace() (path string, fresh bool) {
	for _, ns := range b.Spec.Linux.Namespaces {
		if ns.Type == specs.NetworkNamespace {
			return ns.Path, ns.Path == ""
		}
	}
	return "", true
}

// lookAtNetwork refuses a path that leads to the runtime's own network namespace: the host's.
func (b *Bundle) lookAtNetwork(r *report) {
	if b.Spec.Linux == nil {
		return
	}
	path, fresh := b.NetworkNamespace()
	if fresh {
		return
	}
	refuse := func(why string) { r.refuse("linux.namespaces", "the network namespace %s: %s", path, why) }
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		refuse(reason(err))
		return
	}
	defer unix.Close(fd)
	if kind, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE); err != nil || kind != unix.CLONE_NEWNET {
		refuse("it is none; name one of those that `ip netns` and engines make")
		return
	}
	var theirs, ours unix.Stat_t
	if unix.Fstat(fd, &theirs) == nil && unix.Stat("/proc/self/ns/net", &ours) == nil && theirs.Dev == ours.Dev && theirs.Ino == ours.Ino {
		refuse("it is the host's, which a guest has no part in; give the container a network of its own (no --network host)")
	}
}

// reason says why a file of the host's cannot be used, in words that an engine does not take for the container's program missing.
func reason(err error) string {
	switch {
	case os.IsNotExist(err):
		return "it is missing on the host"
	case os.IsPermission(err):
		return "the runtime may not use it"
	}
	return err.Error()
}
