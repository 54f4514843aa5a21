package cli

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"

	"github.com/runcvm/runcvm/internal/monitor"
)

// networkFlags are the flags that say what network a container has.
type networkFlags struct {
	network, net string
}

func (f *networkFlags) add(flags *pflag.FlagSet) {
	const usage = "none, or ns:PATH: the interfaces of a network namespace"
	flags.StringVar(&f.network, "network", "", usage)
	flags.StringVar(&f.net, "net", "", usage)
}

// apply puts what was given into the request, and lists what is wrong.
func (f *networkFlags) apply(r *monitor.Request) []error {
	name := f.network
	if name == "" {
		name = f.net
	}
	if path, ok := strings.CutPrefix(name, "ns:"); ok {
		if !filepath.IsAbs(path) {
			return []error{fmt.Errorf("--network %q: ns: takes an absolute path", name)}
		}
		r.Namespace = path
		return nil
	}
	switch kind, _, _ := strings.Cut(name, ":"); kind {
	case "", "none":
		return nil
	case "host":
		return []error{fmt.Errorf("--network host is not supported: a guest has a kernel, and so a network, of its own; publish its ports")}
	case "container":
		return []error{fmt.Errorf("--network %s is not supported: the guest's kernel cannot share another one's network; "+
			"give both containers the same network", name)}
	}
	return []error{fmt.Errorf("--network %q is not supported", name)}
}
