// Package cli is the command runcvm: people's verbs, each in a file of its own.
//
// Execute is called once.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/spf13/cobra"

	"github.com/runcvm/runcvm/internal/cmdline"
	"github.com/runcvm/runcvm/internal/config"
	"github.com/runcvm/runcvm/internal/container"
	"github.com/runcvm/runcvm/internal/hostcgroup"
	"github.com/runcvm/runcvm/internal/image"
	"github.com/runcvm/runcvm/internal/monitor"
	"github.com/runcvm/runcvm/internal/ocicli"
	"github.com/runcvm/runcvm/internal/rootfs"
	"github.com/runcvm/runcvm/internal/version"
)

// app is what the verbs share.
type app struct {
	zero           time.Time
	cfg            *config.Config
	stdout, stderr io.Writer
	flags          map[string]*string // global flags by the setting's key
	// code is the exit code of a verb that has succeeded with one of its own.
	code int
}

func newApp() *app { return &app{stdout: os.Stdout, stderr: os.Stderr, flags: map[string]*string{}} }

// Execute runs the command line and returns the exit code. zero is when the process began.
func Execute(zero time.Time) int {
	a := newApp()
	a.zero = zero
	if len(os.Args) == 2 && os.Args[1] == monitor.Command {
		return monitor.Main()
	}
	if len(os.Args) == 2 && os.Args[1] == hostcgroup.StandIn {
		if err := hostcgroup.RunStandIn(); err != nil {
			a.tell(err)
			return 1
		}
		return 0
	}
	if ocicli.Wants(os.Args[1:]) {
		return ocicli.Execute(zero, os.Args[1:])
	}
	root := a.root()
	if len(os.Args) > 1 && strings.HasPrefix(os.Args[1], cobra.ShellCompRequestCmd) {
		a.completeArguments(root) // no other start pays for it
	}
	err := root.ExecuteContext(context.Background())
	if err == nil {
		return a.code
	}
	a.tell(err)
	if exit := new(cmdline.ExitError); errors.As(err, &exit) {
		return exit.Code
	}
	return 1
}

func (a *app) tell(err error) { fmt.Fprintf(a.stderr, "runcvm: %s\n", message(err)) }

// classes are errors that say something to programs; the text before their words says it better to people.
var classes = []error{errdefs.ErrNotFound, errdefs.ErrAlreadyExists, errdefs.ErrUnavailable, errdefs.ErrFailedPrecondition,
	errdefs.ErrInvalidArgument, errdefs.ErrNotImplemented, errdefs.ErrOutOfRange, errdefs.ErrResourceExhausted, errdefs.ErrUnauthenticated}

// message is an error's text without the words of its class at the end of a line, and without a terminal's controls.
func message(err error) string {
	lines := strings.Split(strings.TrimSpace(err.Error()), "\n") // cobra's suggestions end in empty lines
	for _, class := range classes {
		if !errors.Is(err, class) {
			continue
		}
		for i, line := range lines {
			lines[i] = strings.TrimSuffix(line, ": "+class.Error())
		}
	}
	for i, line := range lines {
		lines[i] = oneLine(line)
	}
	return strings.Join(lines, "\n")
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:           "runcvm",
		Short:         "Run OCI containers, each in a microVM of its own",
		Version:       version.String(),
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			return a.configure()
		},
	}
	root.CompletionOptions.DisableDefaultCmd = true
	for flag, key := range map[string]string{"data-dir": "data_dir", "run-dir": "run_dir", "log-level": "log_level"} {
		a.flags[key] = root.PersistentFlags().String(flag, "", "setting "+key+", see \"runcvm config show\"")
	}
	root.AddCommand(a.runCommand(), a.execCommand(), a.attachCommand(), a.psCommand(), a.logsCommand(), a.rmCommand(), a.timelineCommand(),
		a.importCommand(), a.imagesCommand(), a.rmiCommand(), a.cacheCommand(), a.configCommand())
	root.AddCommand(a.pullCommand(), a.saveCommand(), a.tagCommand())
	root.AddCommand(a.completionCommand(), a.doctorCommand(), a.gcCommand(), a.firecrackerCommand())
	root.AddCommand(a.cpCommand())
	root.AddCommand(a.installCommand(), a.uninstallCommand())
	root.AddCommand(a.kernelCommand())
	root.AddCommand(a.createCommand(), a.startCommand(), a.restartCommand(), a.stopCommand(), a.killCommand(), a.waitCommand(),
		a.pauseCommand(), a.unpauseCommand(), a.renameCommand(), a.eventsCommand(),
		a.topCommand(), a.statsCommand(), a.inspectCommand())
	explainUsage(root)
	return root
}

func (a *app) configure() error {
	var err error
	if a.cfg, err = config.Load(os.LookupEnv); err != nil {
		return err
	}
	for key, value := range a.flags {
		if *value != "" {
			if err := a.cfg.Set(key, *value, "flag"); err != nil {
				return err
			}
		}
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(a.cfg.LogLevel)); err != nil {
		return err
	}
	// What a verb says of its work goes to standard error from warnings on: its output is the container's.
	level = max(level, slog.LevelWarn)
	slog.SetDefault(slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{Level: level})))
	// ttrpc complains of a connection that ends before its calls do, which is how a verb may end.
	log.L.Logger.SetOutput(io.Discard)
	return nil
}

func (a *app) containers() *container.Store { return container.New(a.cfg.DataDir, a.cfg.RunDir) }

func (a *app) images() (*image.Store, error) {
	return image.Open(filepath.Join(a.cfg.DataDir, "images"))
}

func (a *app) disks() (*rootfs.Cache, error) {
	return rootfs.OpenCache(filepath.Join(a.cfg.DataDir, "disks"))
}
