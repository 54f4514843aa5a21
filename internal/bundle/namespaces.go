package bundle

import (
	"fmt"
	"os"
	"regexp"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// checkNamespaces judges each kind of namespace: a new one, one that is there by path, and none, which is the host's. The guest's
// kernel is the container's alone, so the host's and other containers' cannot be given; of the network only a namespace by path is
// there to be bound, and one without a path is made.
func checkNamespaces(b *Bundle, r *report) {
	at := map[specs.LinuxNamespaceType]int{}
	if b.Spec.Linux != nil {
		for i, ns := range b.Spec.Linux.Namespaces {
			where := fmt.Sprintf("linux.namespaces[%d]", i)
			if _, ok := at[ns.Type]; ok {
				r.refuse(where, "there is one of type %q already", ns.Type)
				continue
			}
			at[ns.Type] = i
			kind, known := namespaceKinds[ns.Type]
			switch {
			case !known:
				r.refuse(where, "type %q is unknown; leave it out", ns.Type)
			case ns.Type == specs.UserNamespace:
				r.refuse(where, "%s", noUserNamespace)
			case ns.Path != "" && ns.Type == specs.NetworkNamespace:
				if processNamespace.MatchString(ns.Path) {
					r.refuse(where+".path", "%s is of a running process: the network of another container (--network container:X) or of the host "+
						"cannot be a guest's too; connect both to one network", ns.Path)
				}
			case ns.Path != "":
				r.refuse(where+".path", "%s: a guest's kernel has no part in a %s namespace of the host's; leave it out (%s container:X)",
					ns.Path, ns.Type, kind.flag)
			}
		}
	}
	for _, t := range namespaceOrder {
		if _, ok := at[t]; ok {
			continue
		}
		switch kind := namespaceKinds[t]; {
		case kind.own:
			r.note("linux.namespaces", "none of type %s is asked for; the container has one of its guest's", t)
		case kind.flag != "":
			r.refuse("linux.namespaces", "none of type %s means the host's, which a guest has no part in; give it one of its own (no %s host)",
				t, kind.flag)
		}
	}
}

// namespaceKinds are what is known of each type of namespace.
var namespaceKinds = map[specs.LinuxNamespaceType]struct {
	// flag is the engines' that chooses it; empty where none does.
	flag string
	// own says that a container without it gets one of its guest's all the same.
	own bool
}{
	specs.PIDNamespace:     {flag: "--pid"},
	specs.NetworkNamespace: {flag: "--network"},
	specs.MountNamespace:   {own: true},
	specs.IPCNamespace:     {flag: "--ipc"},
	specs.UTSNamespace:     {flag: "--uts"},
	specs.CgroupNamespace:  {flag: "--cgroupns", own: true},
	specs.UserNamespace:    {},
	specs.TimeNamespace:    {},
}

var namespaceOrder = []specs.LinuxNamespaceType{specs.PIDNamespace, specs.NetworkNamespace, specs.MountNamespace, specs.IPCNamespace,
	specs.UTSNamespace, specs.CgroupNamespace}

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
	var theirs, ours unix.Stat_t
	if err := unix.Stat(path, &theirs); err != nil {
		r.refuse("linux.namespaces", "the network namespace %s: %s", path, reason(err))
		return
	}
	if err := unix.Stat("/proc/self/ns/net", &ours); err == nil && theirs.Dev == ours.Dev && theirs.Ino == ours.Ino {
		r.refuse("linux.namespaces", "the network namespace %s is the host's, which a guest has no part in; "+
			"give the container a network of its own (no --network host)", path)
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
