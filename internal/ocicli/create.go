package ocicli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/runcvm/runcvm/internal/bundle"
	"github.com/runcvm/runcvm/internal/container"
	"github.com/runcvm/runcvm/internal/hostcgroup"
	"github.com/runcvm/runcvm/internal/monitor"
	"github.com/runcvm/runcvm/internal/oci"
)

// createFlags are those of create and run.
type createFlags struct {
	bundle, consoleSocket, pidFile, pidfdSocket string
	preserveFDs                                 int
	// detach is always so with create.
	detach bool
}

func (f *createFlags) add(flags *pflag.FlagSet) {
	flags.StringVarP(&f.bundle, "bundle", "b", "", "directory with config.json (default: the working directory)")
	flags.StringVar(&f.consoleSocket, "console-socket", "", "Unix socket that gets the master of the container's terminal")
	flags.StringVar(&f.pidFile, "pid-file", "", "file that gets the process id of the container on the host")
	flags.StringVar(&f.pidfdSocket, "pidfd-socket", "", "Unix socket that gets a pidfd of the container's process")
	f.addPreserveFDs(flags)
	flags.Bool("no-pivot", false, "taken: the root of the container is one of the guest's anyway")
	flags.Bool("no-new-keyring", false, "taken: the keyrings are the guest's anyway")
}

func (f *createFlags) addPreserveFDs(flags *pflag.FlagSet) {
	flags.IntVar(&f.preserveFDs, "preserve-fds", 0, "refused unless 0: "+whyNoFiles)
}

func (a *app) createCommand() *cobra.Command {
	f := &createFlags{detach: true}
	cmd := &cobra.Command{
		Use: "create [flags] ID", Short: "Make a container of a bundle; start runs its process", Args: exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, err := a.create(cmd.Context(), args[0], f)
			return err
		},
	}
	f.add(cmd.Flags())
	return cmd
}

// created is a container that this process has made.
type created struct {
	monitor *monitor.Spawned
	bundle  *bundle.Bundle
	// console is the master of the container's terminal, where this process keeps it.
	console *os.File
}

// create makes a container. After an error nothing of it is left.
func (a *app) create(ctx context.Context, id string, f *createFlags) (_ *created, err error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	if err := refuseFiles(f.preserveFDs); err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(f.bundle)
	if err != nil {
		return nil, fmt.Errorf("--bundle: %w", err)
	}
	b, err := bundle.Load(dir)
	if err != nil {
		return nil, err
	}
	for _, note := range b.CreationNotes(os.LookupEnv) {
		a.log.debugf(note)
	}
	if err := checkConsole(b.Spec.Process, f); err != nil {
		return nil, err
	}
	if err := a.makeFree(id); err != nil {
		return nil, err
	}
	c := &created{bundle: b}
	var place monitor.Place
	if b.Spec.Process.Terminal {
		if c.console, place.Terminal, err = openConsole(b.Spec.Process.ConsoleSize); err != nil {
			return nil, err
		}
		defer place.Terminal.Close()
		defer func() {
			if err != nil || f.consoleSocket != "" {
				c.console.Close()
			}
		}()
	}
	req := a.request(id, b)
	defer func() {
		if err != nil && c.monitor != nil { // the lifecycle's last step, whatever has ended it
			a.runPoststop(ctx, b.Spec.Hooks, hookState(req.Bundle, specs.StateStopped, 0))
		}
	}()
	var cgroup *hostcgroup.Cgroup
	place.Started = func(pid int, req *monitor.Request) (err error) {
		if cgroup, err = a.enterCgroup(pid, req, b.Spec); err == nil {
			state := cgroup.State()
			req.Bundle.Cgroup = &state
		}
		return err
	}
	defer func() {
		if err != nil && cgroup != nil {
			err = errors.Join(err, deleteCgroup(ctx, cgroup))
		}
	}()
	if c.monitor, err = monitor.SpawnBundle(ctx, req, place); err != nil {
		return nil, err
	}
	if err := a.finishCreation(ctx, c, req.Bundle, f); err != nil {
		return nil, errors.Join(err, c.monitor.Abort())
	}
	return c, c.monitor.Settle()
}

// whyNoFiles is why a process gets no files beside its standard ones.
const whyNoFiles = "a file that is open on the host cannot be open in the guest"

func refusePreserved(fds int) error {
	if fds == 0 {
		return nil
	}
	return fmt.Errorf("--preserve-fds %d: %s; leave it out", fds, whyNoFiles)
}

// refuseFiles refuses files that are to be open in a container beside its standard ones: by the flag, or as systemd hands sockets to the
// process that it starts (sd_listen_fds(3)).
func refuseFiles(preserveFDs int) error {
	if err := refusePreserved(preserveFDs); err != nil {
		return err
	}
	n, err := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	if err == nil && n > 0 && os.Getenv("LISTEN_PID") == strconv.Itoa(os.Getpid()) {
		return fmt.Errorf("LISTEN_FDS=%d: %s; start the container without socket activation, and publish its port", n, whyNoFiles)
	}
	return nil
}

// makeFree removes what the host's end has left of a container that is called so. One that is there is errExist.
func (a *app) makeFree(id string) error {
	_, err := a.find(id)
	if err == nil {
		return errExist
	}
	if !errors.Is(err, errNotExist) {
		return err
	}
	return a.containers().ClearBundle(a.root, id)
}

// finishCreation does what of the creation is done in the caller's own namespaces.
func (a *app) finishCreation(ctx context.Context, c *created, made *container.Bundle, f *createFlags) error {
	if f.consoleSocket != "" {
		if err := sendFile(ctx, f.consoleSocket, c.console); err != nil {
			return fmt.Errorf("--console-socket: %w", err)
		}
	}
	if f.pidfdSocket != "" {
		if err := sendPidfd(ctx, f.pidfdSocket, c.monitor.Pid()); err != nil {
			return fmt.Errorf("--pidfd-socket: %w", err)
		}
	}
	if h := c.bundle.Spec.Hooks; h != nil {
		state := hookState(made, specs.StateCreating, c.monitor.Pid())
		if err := runHooks(ctx, "prestart", h.Prestart, state); err != nil { //nolint:staticcheck // engines still use it
			return err
		}
		if err := runHooks(ctx, "createRuntime", h.CreateRuntime, state); err != nil {
			return err
		}
	}
	return writePidFile(f.pidFile, c.monitor.Pid())
}

// request is what the monitor is asked for.
func (a *app) request(id string, b *bundle.Bundle) monitor.Request {
	namespace, _ := b.NetworkNamespace()
	return monitor.Request{
		Namespace: namespace,
		ID:        container.BundleID(a.root, id), Image: b.Dir, Settings: a.cfg.Values(), Zero: a.zero, Stdin: true,
		Options: oci.Options{Terminal: b.Spec.Process.Terminal, Hostname: b.Spec.Hostname, Limits: limits(b.Spec)},
		Bundle: &container.Bundle{
			Root: a.root, ID: id, Dir: b.Dir, Rootfs: b.Rootfs, Version: b.Spec.Version, Annotations: b.Spec.Annotations,
			BootID: container.BootID(),
		},
		SystemdCgroup: a.systemdCgroup,
	}
}

// limits are those of the container that its guest's size follows from.
func limits(s *specs.Spec) oci.Limits {
	var l oci.Limits
	if s.Linux == nil || s.Linux.Resources == nil {
		return l
	}
	if m := s.Linux.Resources.Memory; m != nil && m.Limit != nil && *m.Limit > 0 {
		l.Memory = *m.Limit
	}
	if c := s.Linux.Resources.CPU; c != nil {
		l.CPUSet = c.Cpus
		if c.Quota != nil && *c.Quota > 0 {
			l.CPUQuota = *c.Quota
			if c.Period != nil {
				l.CPUPeriod = *c.Period
			}
		}
	}
	return l
}

// writePidFile writes a pid for whoever waits for the file: it is there with its content or not at all.
func writePidFile(path string, pid int) error {
	if path == "" {
		return nil
	}
	tmp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path))
	if err := os.WriteFile(tmp, []byte(strconv.Itoa(pid)), 0o644); err != nil {
		return fmt.Errorf("--pid-file: %w", err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return errors.Join(fmt.Errorf("--pid-file: %w", err), os.Remove(tmp))
	}
	return nil
}
