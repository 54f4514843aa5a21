package cli

import (
	"fmt"

	"github.com/spf13/pflag"
)

// refusedFlag is a flag of docker run that RunCVM does not have.
type refusedFlag struct {
	name, short string
	boolean     bool
	// instead says why, and what to do.
	instead string
}

const (
	noAlias   = "networks here have no names of containers; give an address by --ip, and a name by --add-host"
	noVolumes = "files of the host cannot be mounted in a guest yet; put them into the image, pass them through -i, or copy them with " +
		"\"runcvm cp\""
	noDevices = "a guest has no devices of the host; --privileged gives it all of its own, --device-cgroup-rule one of them"
	noIO      = "the guest's disks are the container's alone, and have no rate limits yet; leave it out"
	noHealth  = "there are no health checks; run the check by \"runcvm exec\""
	windows   = "it is for Windows containers"
	realtime  = "real-time scheduling by cgroups ended with cgroup v1, and the guest has v2; use --cap-add SYS_NICE and chrt"
)

var refusedFlags = []refusedFlag{
	{name: "attach", short: "a", instead: "without -d the container's output comes here, and -i gives it this standard input"},
	{name: "blkio-weight", instead: noIO},
	{name: "blkio-weight-device", instead: noIO},
	{name: "cgroup-parent", instead: "the container's cgroup is its guest's; " +
		"to limit the whole microVM run runcvm in a cgroup of the host (systemd-run)"},
	{name: "cidfile", instead: "-d prints the id, and \"runcvm ps --no-trunc -aq --filter name=NAME\" finds it"},
	{name: "cpu-count", instead: windows},
	{name: "cpu-percent", instead: windows},
	{name: "cpu-rt-period", instead: realtime},
	{name: "cpu-rt-runtime", instead: realtime},
	{name: "cpuset-mems", instead: "a guest has one memory node; numactl --membind before runcvm chooses the host's"},
	{name: "device", instead: noDevices},
	{name: "device-read-bps", instead: noIO},
	{name: "device-read-iops", instead: noIO},
	{name: "device-write-bps", instead: noIO},
	{name: "device-write-iops", instead: noIO},
	{name: "disable-content-trust", boolean: true, instead: "images are verified by their digests, not by content trust; leave it out"},
	{name: "gpus", instead: noDevices},
	{name: "health-cmd", instead: noHealth},
	{name: "health-interval", instead: noHealth},
	{name: "health-retries", instead: noHealth},
	{name: "health-start-interval", instead: noHealth},
	{name: "health-start-period", instead: noHealth},
	{name: "health-timeout", instead: noHealth},
	{name: "io-maxbandwidth", instead: windows},
	{name: "io-maxiops", instead: windows},
	{name: "isolation", instead: windows},
	{name: "kernel-memory", instead: "the kernel's memory counts in --memory, as everywhere since Linux 5.4"},
	{name: "link", instead: noAlias},
	{name: "link-local-ip", instead: "a guest makes link-local addresses itself (IPv6); ip addr add in the container makes others"},
	{name: "log-driver", instead: "the output is kept by runcvm, see \"runcvm logs\"; to send it elsewhere, pipe it"},
	{name: "log-opt", instead: "the setting log.max_size bounds the log, see \"runcvm config show\""},
	{name: "memory-swappiness", instead: "a guest has no swap; leave it out"},
	{name: "mount", instead: noVolumes + "; --tmpfs makes a file system in memory"},
	{name: "network-alias", instead: noAlias},
	{name: "net-alias", instead: noAlias},
	{name: "oom-kill-disable", boolean: true, instead: "cgroup v2, which the guest has, cannot do it; use --oom-score-adj"},
	{name: "runtime", instead: "runcvm is the runtime; choose its VMM by the setting vmm.path"},
	{name: "sig-proxy", boolean: true, instead: "signals go to the container's process; -d leaves it alone"},
	{name: "storage-opt", instead: "--size limits the container's disk"},
	{name: "use-api-socket", boolean: true, instead: "there is no API socket; leave it out"},
	{name: "volume", short: "v", instead: noVolumes},
	{name: "volume-driver", instead: noVolumes},
	{name: "volumes-from", instead: noVolumes},
}

// refuse makes a flag of Docker's that the command does not have a fault that says what to do, found by apply. It comes after all
// other flags are defined.
func (f *optionFlags) refuse(flags *pflag.FlagSet) {
	for _, r := range refusedFlags {
		if flags.Lookup(r.name) != nil {
			continue
		}
		short := r.short
		if short != "" && flags.ShorthandLookup(short) != nil {
			short = ""
		}
		flag := flags.VarPF(&refusedValue{r, f}, r.name, short, r.instead)
		flag.Hidden = true
		if r.boolean {
			flag.NoOptDefVal = "true"
		}
	}
}

type refusedValue struct {
	flag refusedFlag
	f    *optionFlags
}

func (v *refusedValue) String() string { return "" }

func (v *refusedValue) Type() string {
	if v.flag.boolean {
		return "bool"
	}
	return "string"
}

func (v *refusedValue) Set(s string) error {
	if v.flag.boolean && s == "false" {
		return nil // as without it
	}
	v.f.refused = append(v.f.refused, fmt.Errorf("--%s is not supported: %s", v.flag.name, v.flag.instead))
	return nil
}
