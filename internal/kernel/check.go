package kernel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
)

// State is what a kernel has of an option.
type State string

// States of an option.
const (
	BuiltIn  State = "built in"
	AsModule State = "module"
	Missing  State = "missing"
	// Unknown is an option that only a configuration tells, of a kernel without one.
	Unknown State = "unknown"
)

// Option is an option that a guest needs or can use.
type Option struct {
	// Name is the option's with CONFIG_.
	Name string
	// Use is what it is for.
	Use string
	// Required says that a kernel without it is refused.
	Required bool
	State    State
	// Why says, where the state is Missing, what was found instead.
	Why string
}

// Report is what Check found.
type Report struct {
	Kernel
	// Usable says that nothing that is required is missing.
	Usable  bool
	Options []Option
}

// wishes are what a guest can do without. Most containers never miss them.
var wishes = []requirement{
	{"MODULES", "", "drivers on demand, from the module disk"},
	{"KVM_GUEST", "", "the clock of a guest on KVM"},
	{"USER_NS", "", "sandboxes inside of containers"},
	{"IPV6", "ipv6", "IPv6"},
	{"BLK_DEV_THROTTLING", "", "--device-read-bps and the like"},
	{"BLK_DEV_LOOP", "loop", "loop mounts in privileged containers"},
	{"TUN", "tun", "VPNs in privileged containers"},
	{"VETH", "veth", "containers in containers"},
	{"BRIDGE", "bridge", "containers in containers"},
	{"NF_TABLES", "nf_tables", "nft in privileged containers"},
	{"NF_NAT", "nf_nat", "address translation in privileged containers"},
	{"IP_NF_IPTABLES", "ip_tables", "iptables in privileged containers"},
	{"WIREGUARD", "wireguard", "WireGuard in privileged containers"},
	{"NFS_FS", "nfs", "NFS mounts in privileged containers"},
	{"CIFS", "cifs", "SMB mounts in privileged containers"},
}

// Check tells what the kernel at o.Path (or the one that Find would take) has of what guests need and can use. The error is of a
// kernel that cannot be looked at, or booted at all; one that lacks options has a report.
func Check(ctx context.Context, o Options) (Report, error) {
	if o.Path == "" {
		name, err := Default(o.CacheDir)
		if err != nil {
			return Report{}, err
		}
		o.Path = name
	}
	if o.Path == "" {
		return checkRoots(ctx, o)
	}
	path, err := Locate(o.CacheDir, o.Path)
	if err != nil {
		return Report{}, err
	}
	s, err := sourceAt(path, func() (string, error) { return unpackDeb(ctx, path, o.CacheDir) })
	if err != nil {
		return Report{}, fmt.Errorf("kernel %s: %w", o.Path, err)
	}
	return checkSource(ctx, s)
}

// checkRoots looks at the kernels in the order in which Find tries them, up to the first that can be used. Of several that cannot it
// tells of the first.
func checkRoots(ctx context.Context, o Options) (Report, error) {
	var first *Report
	var errs []error
	for _, root := range o.Roots {
		sources, err := searchRoot(root)
		if err != nil {
			return Report{}, err
		}
		for _, s := range sources {
			r, err := checkSource(ctx, s)
			switch {
			case err != nil:
				errs = append(errs, err)
			case r.Usable:
				return r, nil
			case first == nil:
				first = &r
			}
		}
	}
	if first != nil {
		return *first, nil
	}
	return Report{}, errors.Join(append(errs, notFound(o.Roots))...)
}

func checkSource(ctx context.Context, s source) (Report, error) {
	scratch, err := os.MkdirTemp("", "runcvm-kernel-")
	if err != nil {
		return Report{}, err
	}
	defer func() { _ = os.RemoveAll(scratch) }()
	f, err := inspect(ctx, s, scratch)
	if err != nil {
		return Report{}, fmt.Errorf("kernel %s: %w", s.image, err)
	}
	r := Report{Kernel: f.Kernel, Options: f.check(requirements)}
	r.Usable = refusal(r.Options) == nil
	for i := range r.Options {
		r.Options[i].Required = true
	}
	r.Options = append(r.Options, f.check(wishes)...)
	// What was unpacked is gone with the scratch directory.
	r.Vmlinux = s.image
	if f.ConfigPath == entryConfig {
		r.ConfigPath = ""
	}
	return r, nil
}

// check says what the kernel has of each option of the list.
func (f facts) check(list []requirement) []Option {
	out := make([]Option, 0, len(list))
	for _, r := range list {
		o := Option{Name: "CONFIG_" + r.option, Use: r.use}
		if f.conf != nil {
			o.State, o.Why = f.configured(r)
		} else {
			o.State, o.Why = f.listed(r)
		}
		out = append(out, o)
	}
	return out
}

func (f facts) configured(r requirement) (State, string) {
	switch v := f.conf[r.option]; {
	case v == "y":
		return BuiltIn, ""
	case v != "m":
		return Missing, "is not set"
	case r.module == "":
		return Missing, "is a module but must be built in"
	case f.mods == nil:
		return Missing, "is a module and there is no modules directory"
	case !f.mods.has(r.module):
		return Missing, fmt.Sprintf("is a module and %s.ko is not in %s", r.module, f.mods.dir)
	}
	return AsModule, ""
}

// listed answers for a kernel without a configuration, from its modules and from modules.builtin, which has what could have been
// a module.
func (f facts) listed(r requirement) (State, string) {
	switch {
	case f.mods == nil || r.module == "" || r.module == "unix": // unix can be no module any more since Linux 6.10
		return Unknown, ""
	case f.mods.builtin[r.module]:
		return BuiltIn, ""
	case f.mods.files[r.module] != "":
		return AsModule, ""
	case len(f.mods.builtin) == 0:
		return Unknown, ""
	}
	return Missing, fmt.Sprintf("is neither built in nor a module in %s", f.mods.dir)
}

// refusal names everything that is missing in one error.
func refusal(options []Option) error {
	var missing []string
	for _, o := range options {
		if o.State == Missing {
			missing = append(missing, fmt.Sprintf("%s %s (%s)", o.Name, o.Why, o.Use))
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return errors.New("the kernel lacks what the guest needs: " + strings.Join(missing, "; "))
}
