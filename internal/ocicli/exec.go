package ocicli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"

	"github.com/runcvm/runcvm/internal/bundle"
	"github.com/runcvm/runcvm/internal/cmdline"
	"github.com/runcvm/runcvm/internal/container"
	"github.com/runcvm/runcvm/internal/sandbox"
)

// execFlags are exec's.
type execFlags struct {
	createFlags
	process, cwd, user, apparmor, label string
	env, caps, cgroups                  []string
	gids                                []uint
	tty, noNewPrivs, ignorePaused       bool
}

// exitExecFailed is the exit code of an exec that could not be done, as runc has it.
const exitExecFailed = 255

func (a *app) execCommand() *cobra.Command {
	f := new(execFlags)
	cmd := &cobra.Command{
		Use: "exec [flags] ID [COMMAND [ARG...]]", Short: "Run a further process in a container", Args: minArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			err := a.exec(cmd.Context(), args[0], args[1:], f, cmd.Flags().Changed("no-new-privs"))
			if err != nil {
				return &cmdline.ExitError{Err: fmt.Errorf("exec failed: %w", err), Code: exitExecFailed}
			}
			return nil
		},
	}
	flags := cmd.Flags()
	flags.SetInterspersed(false) // what follows the id is the command's
	flags.StringVarP(&f.process, "process", "p", "", "file with the process, as config.json has it")
	flags.StringVar(&f.consoleSocket, "console-socket", "", "Unix socket that gets the master of the process's terminal")
	flags.StringVar(&f.pidFile, "pid-file", "", "file that gets the id of the process on the host that stands for it")
	flags.StringVar(&f.pidfdSocket, "pidfd-socket", "", "Unix socket that gets a pidfd of the process on the host that stands for it")
	flags.BoolVarP(&f.detach, "detach", "d", false, "return when it runs")
	flags.BoolVarP(&f.tty, "tty", "t", false, "give it a terminal")
	flags.StringVar(&f.cwd, "cwd", "", "working directory")
	flags.StringVarP(&f.user, "user", "u", "", "UID[:GID]")
	flags.UintSliceVarP(&f.gids, "additional-gids", "g", nil, "further groups, by number")
	flags.StringArrayVarP(&f.env, "env", "e", nil, "environment variable NAME=VALUE")
	flags.StringArrayVarP(&f.caps, "cap", "c", nil, "capability to add")
	flags.BoolVar(&f.noNewPrivs, "no-new-privs", false, "set no_new_privs")
	flags.StringVar(&f.apparmor, "apparmor", "", "taken: the microVM keeps the process from the host")
	flags.StringVar(&f.label, "process-label", "", "taken: the microVM keeps the process from the host")
	flags.StringArrayVar(&f.cgroups, "cgroup", nil, "refused: the process is in the container's cgroup of the guest")
	flags.BoolVar(&f.ignorePaused, "ignore-paused", false, "refused for a container that is paused")
	f.addPreserveFDs(flags)
	return cmd
}

func (a *app) exec(ctx context.Context, id string, args []string, f *execFlags, setPrivs bool) error {
	e, err := a.find(id)
	if err != nil {
		return err
	}
	switch s := status(e); {
	case s == sandbox.Stopped:
		return errors.New("cannot exec in a stopped container")
	case s == sandbox.Paused && f.ignorePaused:
		return errors.New("cannot exec in a paused container: --ignore-paused is not supported, resume it first")
	case s == sandbox.Paused:
		return errors.New("cannot exec in a paused container")
	case s != sandbox.Running:
		return fmt.Errorf("cannot exec in a container that is %s: its microVM boots at start, so start it first", s)
	case len(f.cgroups) > 0:
		return fmt.Errorf("--cgroup %s: the process is in the container's cgroup of the guest; leave it out", strings.Join(f.cgroups, ","))
	}
	if err := refusePreserved(f.preserveFDs); err != nil {
		return err
	}
	p, err := f.read(e, args, setPrivs)
	if err != nil {
		return err
	}
	if err := checkConsole(p, &f.createFlags); err != nil {
		return err
	}
	guest, notes, err := bundle.GuestProcess(p)
	if err != nil {
		return err
	}
	for _, note := range notes {
		a.log.debugf(note)
	}
	text, err := json.Marshal(guest)
	if err != nil {
		return fmt.Errorf("write the process's specification: %w", err)
	}
	x := &execution{Settings: a.cfg.Values(), Container: e.ID, Process: text, Terminal: p.Terminal}
	if f.detach {
		return a.execDetached(ctx, x, p, f)
	}
	return a.execHere(ctx, x, e, f)
}

// read makes the process that is asked for: the one of a file, or the container's own as the flags change it.
func (f *execFlags) read(e *container.Entry, args []string, setPrivs bool) (*specs.Process, error) {
	if f.process != "" {
		text, err := os.ReadFile(f.process)
		if err != nil {
			return nil, fmt.Errorf("--process: %w", err)
		}
		p := new(specs.Process)
		if err := json.Unmarshal(text, p); err != nil {
			return nil, fmt.Errorf("--process %s: %w", f.process, err)
		}
		if len(p.Args) == 0 {
			return nil, errors.New("exec args cannot be empty")
		}
		return p, nil
	}
	if len(args) == 0 {
		return nil, errors.New("exec args cannot be empty")
	}
	spec, err := readSpec(e)
	if err != nil {
		return nil, err
	}
	p := spec.Process
	p.Args, p.Terminal = args, f.tty
	if f.cwd != "" {
		p.Cwd = f.cwd
	}
	p.Env = append(p.Env, f.env...)
	if setPrivs {
		p.NoNewPrivileges = f.noNewPrivs
	}
	f.addCapabilities(p)
	return p, f.setUser(p)
}

func (f *execFlags) addCapabilities(p *specs.Process) {
	if len(f.caps) == 0 {
		return
	}
	if p.Capabilities == nil {
		p.Capabilities = new(specs.LinuxCapabilities)
	}
	c := p.Capabilities
	c.Bounding = append(c.Bounding, f.caps...)
	c.Effective = append(c.Effective, f.caps...)
	c.Permitted = append(c.Permitted, f.caps...)
	if c.Inheritable != nil { // an ambient one must be inheritable
		c.Ambient = append(c.Ambient, f.caps...)
	}
}

func (f *execFlags) setUser(p *specs.Process) error {
	for _, gid := range f.gids {
		p.User.AdditionalGids = append(p.User.AdditionalGids, uint32(gid))
	}
	if f.user == "" {
		return nil
	}
	uid, gid, both := strings.Cut(f.user, ":")
	n, err := strconv.ParseUint(uid, 10, 32)
	if err != nil {
		return fmt.Errorf("bad uid: %w", err)
	}
	p.User.UID = uint32(n)
	if both {
		if n, err = strconv.ParseUint(gid, 10, 32); err != nil {
			return fmt.Errorf("bad gid: %w", err)
		}
		p.User.GID = uint32(n)
	}
	return nil
}
