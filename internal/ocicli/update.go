package ocicli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	units "github.com/docker/go-units"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/runcvm/runcvm/internal/monitor"
	"github.com/runcvm/runcvm/internal/monitor/api"
	"github.com/runcvm/runcvm/internal/sandbox"
)

// updateFlags are those of runc's update.
type updateFlags struct {
	set                                *pflag.FlagSet
	resources                          string
	weight                             uint16
	period, shares, burst, rtPeriod    uint64
	quota, pids, idle, rtRuntime       int64
	cpus, mems                         string
	memory, reservation, memoryAndSwap string
	kernelMemory, kernelMemoryTCP      string
}

func (f *updateFlags) add(flags *pflag.FlagSet) {
	f.set = flags
	flags.StringVarP(&f.resources, "resources", "r", "", "file with linux.resources of an OCI specification as JSON, - for standard input")
	flags.Uint16Var(&f.weight, "blkio-weight", 0, "weight of the VMM's input and output on the host, from 10 to 1000")
	flags.Uint64Var(&f.period, "cpu-period", 0, "period of --cpu-quota in microseconds")
	flags.Int64Var(&f.quota, "cpu-quota", 0,
		"processor time in each period in microseconds, at most the guest's processors; -1 for no limit")
	flags.Uint64Var(&f.burst, "cpu-burst", 0, "processor time that is saved up for use beyond the quota, in microseconds")
	flags.Uint64Var(&f.shares, "cpu-share", 0, "weight among other processes of the host")
	flags.Int64Var(&f.idle, "cpu-idle", 0, "1: run only when no other process of the host wants to")
	flags.Uint64Var(&f.rtPeriod, "cpu-rt-period", 0, "refused: the guest's kernel shares no real-time budget among cgroups")
	flags.Int64Var(&f.rtRuntime, "cpu-rt-runtime", 0, "refused: the guest's kernel shares no real-time budget among cgroups")
	flags.StringVar(&f.cpus, "cpuset-cpus", "", "processors of the host on which the microVM runs")
	flags.StringVar(&f.mems, "cpuset-mems", "", "memory nodes of the host from which it has its memory")
	flags.StringVar(&f.memory, "memory", "", "limit of memory, at most what the guest was booted for; -1 for no limit")
	flags.StringVar(&f.reservation, "memory-reservation", "", "memory that is not taken back while there is other; -1 for none")
	flags.StringVar(&f.memoryAndSwap, "memory-swap", "", "limit of memory and the host's swap together; -1 for no limit")
	flags.StringVar(&f.kernelMemory, "kernel-memory", "", "ignored: the limit of memory counts the kernel's share too")
	flags.StringVar(&f.kernelMemoryTCP, "kernel-memory-tcp", "", "ignored: the limit of memory counts the buffers of sockets too")
	flags.Int64Var(&f.pids, "pids-limit", 0, "processes and threads in the guest; -1 for no limit")
	flags.String("l3-cache-schema", "", "refused: "+resctrlInstead)
	flags.String("mem-bw-schema", "", "refused: "+resctrlInstead)
}

// resctrlInstead is what to do in place of what the container cannot be given.
const resctrlInstead = "put the VMM's cgroup into a class of resctrl(5) on the host instead"

func (a *app) updateCommand() *cobra.Command {
	f := &updateFlags{}
	cmd := &cobra.Command{
		Use: "update [flags] ID", Short: "Change limits of a container, within what its guest is made for",
		Args: exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := a.find(args[0])
			if err != nil {
				return err
			}
			if s := status(e); s != sandbox.Created && s != sandbox.Running && s != sandbox.Paused {
				return errNotRunning
			}
			r, err := f.read(os.Stdin)
			if err != nil {
				return err
			}
			if m := r.Memory; m != nil && (asked(m.Kernel) || asked(m.KernelTCP)) { //nolint:staticcheck // some still ask for it
				a.log.warn("linux.resources.memory.kernel and kernelTCP are ignored: memory.limit counts the kernel's share too")
			}
			resources, err := json.Marshal(r)
			if err != nil {
				return err
			}
			return a.ask(cmd.Context(), e, func(ctx context.Context, c *monitor.Client) error {
				_, err := c.Bundle.UpdateBundle(ctx, &api.UpdateBundleRequest{Resources: resources})
				return err
			})
		},
	}
	f.add(cmd.Flags())
	return cmd
}

// maxResources bounds what is read of resources, in bytes.
const maxResources = 1 << 20

// read returns linux.resources: of the file, or else by the flags.
func (f *updateFlags) read(stdin io.Reader) (*specs.LinuxResources, error) {
	for _, name := range []string{"l3-cache-schema", "mem-bw-schema"} {
		if f.set.Lookup(name).Value.String() != "" {
			return nil, fmt.Errorf("--%s: %s", name, resctrlInstead)
		}
	}
	if f.resources == "" {
		return f.flags()
	}
	from := stdin
	if f.resources != "-" {
		file, err := os.Open(f.resources)
		if err != nil {
			return nil, fmt.Errorf("--resources: %w", err)
		}
		defer file.Close()
		from = file
	}
	b, err := io.ReadAll(io.LimitReader(from, maxResources+1))
	if err == nil && len(b) > maxResources {
		err = fmt.Errorf("more than %d bytes", maxResources)
	}
	if err != nil {
		return nil, fmt.Errorf("--resources %s: %w", f.resources, err)
	}
	r := new(specs.LinuxResources)
	if err := json.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("--resources %s: %w", f.resources, err)
	}
	return r, nil
}

// asked says whether a limit is given; engines write 0 for what was not asked for.
func asked(n *int64) bool { return n != nil && *n != 0 }

func (f *updateFlags) flags() (*specs.LinuxResources, error) {
	memory := &specs.LinuxMemory{}
	var errs []error
	for name, size := range map[string]struct {
		text string
		to   **int64
	}{
		"memory": {f.memory, &memory.Limit}, "memory-reservation": {f.reservation, &memory.Reservation},
		"memory-swap": {f.memoryAndSwap, &memory.Swap}, "kernel-memory": {f.kernelMemory, &memory.Kernel}, //nolint:staticcheck // as above
		"kernel-memory-tcp": {f.kernelMemoryTCP, &memory.KernelTCP},
	} {
		if size.text == "" {
			continue
		}
		n := int64(-1)
		if size.text != "-1" {
			var err error
			if n, err = units.RAMInBytes(size.text); err != nil {
				errs = append(errs, fmt.Errorf("--%s: %w", name, err))
			}
		}
		*size.to = &n
	}
	cpu := &specs.LinuxCPU{
		Shares: &f.shares, Quota: &f.quota, Period: &f.period, Cpus: f.cpus, Mems: f.mems,
		RealtimePeriod: &f.rtPeriod, RealtimeRuntime: &f.rtRuntime,
	}
	// Of these 0 is a value.
	if f.set.Changed("cpu-burst") {
		cpu.Burst = &f.burst
	}
	if f.set.Changed("cpu-idle") {
		cpu.Idle = &f.idle
	}
	return &specs.LinuxResources{
		Memory: memory, CPU: cpu, Pids: &specs.LinuxPids{Limit: &f.pids}, BlockIO: &specs.LinuxBlockIO{Weight: &f.weight},
	}, errors.Join(errs...)
}
