package cli

import (
	"fmt"
	"os"
	"os/exec"

	"github.com/spf13/cobra"

	"github.com/runcvm/runcvm/internal/enginefile"
)

// engineFlags are those of install and uninstall.
type engineFlags struct {
	enginefile.Options
	dryRun bool
}

func (a *app) installCommand() *cobra.Command {
	var f engineFlags
	cmd := engineCommand(&cobra.Command{
		Use:   "install [flags] docker|podman",
		Short: "Let Docker or Podman run containers in microVMs: write the runtime into their configuration",
		Long: "Write this program as a runtime into Docker's /etc/docker/daemon.json, or for Podman into\n" +
			"/etc/containers/containers.conf.d/runcvm.conf (containers.conf itself, where Podman is older than 3.3 and reads no\n" +
			"directory). What is there stays, with its order and form; a file that the engine could not read is left as it is. The\n" +
			"engine is not told: the last line says how it takes the change. A second time, nothing is done, or the path is set\n" +
			"to this program's. \"runcvm uninstall\" takes it out again.",
	}, &f)
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		engine, err := f.engine(args[0])
		if err != nil {
			return err
		}
		c, err := engine.Install(f.Options)
		if err != nil {
			return err
		}
		if f.dryRun {
			_, err := fmt.Fprint(a.stdout, c.Diff())
			return err
		}
		if err := c.Apply(); err != nil {
			return err
		}
		if c.Empty() {
			fmt.Fprintf(a.stdout, "%s: the runtime %s is %s already\n", c.File, f.Name, f.Program)
		} else {
			fmt.Fprintf(a.stdout, "%s: the runtime %s is %s\n", c.File, f.Name, f.Program)
		}
		fmt.Fprintf(a.stdout, "%s\nThen: %s\n", engine.Reload, fmt.Sprintf(engine.Use, f.Name))
		return nil
	}
	return cmd
}

func (a *app) uninstallCommand() *cobra.Command {
	var f engineFlags
	cmd := engineCommand(&cobra.Command{
		Use:   "uninstall [flags] docker|podman",
		Short: "Take the runtime out of Docker's or Podman's configuration",
		Long: "Take out what \"runcvm install\" has written, and nothing else. A runtime that is not this program, one to which\n" +
			"something was added, and one that is the engine's default are left, with an error. Containers that run go on, but the\n" +
			"engine cannot start them again.",
	}, &f)
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		engine, err := f.engine(args[0])
		if err != nil {
			return err
		}
		changes, err := engine.Uninstall(f.Options)
		if err != nil {
			return err
		}
		for _, c := range changes {
			if f.dryRun {
				fmt.Fprint(a.stdout, c.Diff())
				continue
			}
			if err := c.Apply(); err != nil {
				return err
			}
			fmt.Fprintf(a.stdout, "%s: the runtime %s is out\n", c.File, f.Name)
		}
		switch {
		case len(changes) == 0:
			fmt.Fprintf(a.stderr, "the runtime %s is not in the configuration of %s\n", f.Name, args[0])
		case !f.dryRun:
			fmt.Fprintf(a.stdout, "%s\n", engine.Reload)
		}
		return nil
	}
	return cmd
}

func engineCommand(cmd *cobra.Command, f *engineFlags) *cobra.Command {
	cmd.Args = cobra.ExactArgs(1)
	for _, e := range enginefile.Engines {
		cmd.ValidArgs = append(cmd.ValidArgs, e.Name)
	}
	cmd.Flags().StringVar(&f.File, "config", "", "the `file`, where the engine reads another than its own")
	cmd.Flags().StringVar(&f.Name, "name", enginefile.DefaultName, "what the runtime is called there")
	cmd.Flags().BoolVar(&f.dryRun, "dry-run", false, "show what would be changed, and change nothing")
	return cmd
}

// engine is the one of that name; it fills in what the options need beside the flags.
func (f *engineFlags) engine(name string) (enginefile.Engine, error) {
	for _, e := range enginefile.Engines {
		if e.Name == name {
			var err error
			f.Program, err = ownPath()
			return e, err
		}
	}
	return enginefile.Engine{}, fmt.Errorf("engine %q is not known: docker and podman are", name)
}

// ownPath is this program's: as $PATH has it, where that is this program, since what is there may be a link that is changed with
// the next version.
func ownPath() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find this program: %w", err)
	}
	found, err := exec.LookPath(enginefile.DefaultName)
	if err != nil {
		return self, nil //nolint:nilerr // it is called by its path
	}
	a, errA := os.Stat(self)
	b, errB := os.Stat(found)
	if errA == nil && errB == nil && os.SameFile(a, b) {
		return found, nil
	}
	return self, nil
}
