package cli

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/pflag"

	"github.com/runcvm/runcvm/internal/config"
	"github.com/runcvm/runcvm/internal/oci"
)

// optionFlags are those of docker run's flags that say how the container is to be, for every verb that makes one. register comes
// before the command line is read, apply after.
type optionFlags struct {
	labels, labelFiles, annotations, sysctls []string
	securityOpts                             []string
	sizes                                    map[string]*sizeFlag
	stopTimeout                              int
	modes                                    map[string]*string
	refused                                  []error
}

// sizeFlag is a flag that takes bytes.
type sizeFlag struct {
	text  string
	field *int64
}

// register adds the flags; what they say goes to o at once or by apply.
func (f *optionFlags) register(flags *pflag.FlagSet, o *oci.Options) {
	flags.BoolVar(&o.Init, "init", false, "run the command below an init that hands signals on and reaps")
	flags.StringArrayVar(&o.Groups, "group-add", nil, "further group of the process, by name or number")
	flags.StringVar(&o.Domainname, "domainname", "", "NIS domain name")
	flags.StringVar(&o.StopSignal, "stop-signal", "", "signal that asks the container to end (default: the image's, or SIGTERM)")
	flags.IntVar(&f.stopTimeout, "stop-timeout", oci.DefaultStopTimeout,
		"seconds that it may take then, before it is killed; -1: without end")
	flags.StringArrayVar(&f.sysctls, "sysctl", nil, "parameter of the guest's kernel, NAME=VALUE; any of them")
	flags.StringArrayVarP(&f.labels, "label", "l", nil, "label NAME[=VALUE], for inspect and filters")
	flags.StringArrayVar(&f.labelFiles, "label-file", nil, "file with a label a line")
	flags.StringArrayVar(&f.annotations, "annotation", nil, "annotation NAME=VALUE of the OCI specification in the guest")
	f.registerSecurity(flags, o)
	f.registerLimits(flags, o)
	f.modes = map[string]*string{}
	for _, name := range modeFlags {
		f.modes[name] = flags.String(name, "", modes[name].usage)
	}
	// Nothing to switch off: there are no health checks.
	flags.Bool("no-healthcheck", false, "as without it: no health check is run")
}

func (f *optionFlags) registerSecurity(flags *pflag.FlagSet, o *oci.Options) {
	flags.BoolVar(&o.Privileged, "privileged", false, "lift every restriction in the guest; nothing of the host is given")
	flags.StringArrayVar(&o.CapAdd, "cap-add", nil, "capability to add to Docker's default set, or ALL")
	flags.StringArrayVar(&o.CapDrop, "cap-drop", nil, "capability to take away, or ALL")
	flags.StringArrayVar(&f.securityOpts, "security-opt", nil,
		"seccomp=FILE|unconfined|builtin, no-new-privileges, systempaths=unconfined, writable-cgroups")
	flags.StringArrayVar(&o.DeviceRules, "device-cgroup-rule", nil, "allow a device of the guest, \"c 10:229 rwm\"")
}

func (f *optionFlags) registerLimits(flags *pflag.FlagSet, o *oci.Options) {
	f.sizes = map[string]*sizeFlag{}
	size := func(name, short, usage string, field *int64) {
		s := &sizeFlag{field: field}
		f.sizes[name] = s
		flags.StringVarP(&s.text, name, short, "", usage)
	}
	size("memory", "m", "limit of the container's memory (512m, 2g); the guest is sized from it", &o.Memory)
	size("memory-reservation", "", "memory that is not taken from it while there is too little", &o.MemoryReservation)
	size("memory-swap", "", "limit of memory and swap together; -1: none. A guest has no swap", &o.MemorySwap)
	size("shm-size", "", "size of /dev/shm (64m)", &o.ShmSize)
	flags.Float64Var(&o.CPUs, "cpus", 0, "limit in processors (1.5); the guest has as many, rounded up")
	flags.Uint64Var(&o.CPUPeriod, "cpu-period", 0, "period of a limit in processors, in microseconds")
	flags.Int64Var(&o.CPUQuota, "cpu-quota", 0, "processor time in each period, in microseconds")
	flags.Uint64VarP(&o.CPUShares, "cpu-shares", "c", 0, "weight among the guest's processes")
	flags.StringVar(&o.CPUSet, "cpuset-cpus", "", "processors of the host that the microVM may run on (0-2,4); the guest has as many")
	flags.Int64Var(&o.Pids, "pids-limit", 0, "limit of processes and threads; -1: none")
	flags.IntVar(&o.OOMScoreAdj, "oom-score-adj", 0, "how early the guest's kernel kills it when memory runs out, from -1000 to 1000")
	flags.StringArrayVar(&o.Ulimits, "ulimit", nil, "resource limit NAME=SOFT[:HARD] of each process")
}

// apply moves what was given into o, and lists what is wrong. changed says whether a flag was given.
func (f *optionFlags) apply(o *oci.Options, changed func(string) bool) []error {
	errs := f.refused
	for name, s := range f.sizes {
		if !changed(name) {
			continue
		}
		if name == "memory-swap" && s.text == "-1" {
			*s.field = -1
			continue
		}
		n, err := config.ParseSize(s.text)
		if err == nil && n == 0 && name == "shm-size" {
			err = fmt.Errorf("%q: more than 0", s.text)
		}
		*s.field = n
		errs = append(errs, flagError(name, err))
	}
	if changed("stop-timeout") {
		o.StopTimeout = &f.stopTimeout
	}
	for _, option := range f.securityOpts {
		errs = append(errs, o.SetOption(option, os.ReadFile))
	}
	for _, name := range modeFlags {
		if value := *f.modes[name]; value != "" {
			errs = append(errs, applyMode(o, name, value))
		}
	}
	var err error
	o.Sysctls, err = pairs("sysctl", f.sysctls, true)
	errs = append(errs, err)
	o.Annotations, err = pairs("annotation", f.annotations, true)
	errs = append(errs, err)
	labels, err := entriesOf("label-file", f.labelFiles)
	errs = append(errs, err)
	o.Labels, err = pairs("label", append(labels, f.labels...), false)
	return append(errs, err)
}

// pairs reads NAME=VALUE entries, the last of a name wins. Where a value is not needed, NAME alone has an empty one.
func pairs(flag string, entries []string, needValue bool) (map[string]string, error) {
	if len(entries) == 0 {
		return nil, nil
	}
	m := map[string]string{}
	for _, e := range entries {
		name, value, ok := strings.Cut(e, "=")
		if name == "" || !ok && needValue {
			return nil, fmt.Errorf("--%s %q: write NAME=VALUE", flag, e)
		}
		m[name] = value
	}
	return m, nil
}

// mode is a flag of Docker's with a few words as values.
type mode struct {
	usage   string
	allowed map[string]func(*oci.Options)
	instead string // what to do in place of another value
}

var modeFlags = []string{"ipc", "pid", "uts", "userns", "cgroupns"}

var modes = map[string]mode{
	"ipc": {"private, or none: no /dev/shm", map[string]func(*oci.Options){
		"private": func(*oci.Options) {}, "none": func(o *oci.Options) { o.NoShm = true },
	}, "the container's kernel is its own, so nothing can be shared; run what shares memory in one container"},
	"pid": {"private", private,
		"the container's kernel is its own, and sees no other processes; run what must see each other in one container"},
	"uts": {"private", private, "the container's kernel is its own; set its name with --hostname and --domainname"},
	"userns": {"host: as without it", map[string]func(*oci.Options){"host": func(*oci.Options) {}},
		"root of the guest is nobody on the host; leave it out"},
	"cgroupns": {"private", private,
		"the container's cgroups are its guest's; --privileged or --security-opt writable-cgroups lets it change those"},
}

var private = map[string]func(*oci.Options){"private": func(*oci.Options) {}}

func applyMode(o *oci.Options, name, value string) error {
	if set, ok := modes[name].allowed[value]; ok {
		set(o)
		return nil
	}
	return fmt.Errorf("--%s %q is not supported: %s", name, value, modes[name].instead)
}
