// Package ocicli is runcvm's other command line: that of an OCI runtime, with the flags, the texts and the exit codes of runc, which
// Docker, Podman, CRI-O and containerd's shim know.
//
// Wants says whether a command line is a runtime's; then Execute runs it, once.
package ocicli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"

	"github.com/runcvm/runcvm/internal/cmdline"
	"github.com/runcvm/runcvm/internal/config"
	"github.com/runcvm/runcvm/internal/container"
	"github.com/runcvm/runcvm/internal/terminal"
	"github.com/runcvm/runcvm/internal/version"
)

// defaultRoot stands for the containers of whoever names no --root. It is a name only: nothing lies there.
const defaultRoot = "/run/runcvm/oci"

// app is what the verbs share.
type app struct {
	zero           time.Time
	cfg            *config.Config
	stdin          io.Reader
	stdout, stderr io.Writer

	root, logFile, logFormat string
	systemdCgroup, debug     bool
	flags                    map[string]*string // of settings, by their keys

	log *runtimeLog
	// logSought says that the log was opened, or could not be.
	logSought bool
	// code is the exit code of a verb that has succeeded with one of its own.
	code int
}

// Errors in the words of runc, by which its callers know them.
var (
	errNotExist   = errors.New("container does not exist")
	errExist      = errors.New("container with given ID already exists")
	errInvalidID  = errors.New("invalid container ID format")
	errNotRunning = errors.New("container not running")
	errNotPaused  = errors.New("container not paused")
)

// Execute runs the command line and returns the exit code. zero is when the process began.
func Execute(zero time.Time, args []string) int {
	a := &app{zero: zero, stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, flags: map[string]*string{}}
	a.log = &runtimeLog{w: os.Stderr}
	if len(args) > 0 && args[0] == execVerb {
		return a.execHelper()
	}
	root := a.command()
	root.SetArgs(args)
	err := root.ExecuteContext(context.Background())
	if err == nil {
		return a.code
	}
	told := err
	if !a.logSought {
		// The flags are at fault. Those before them are known, and may say where the engine looks for errors.
		_ = root.PersistentFlags().Parse(args)
		if lerr := a.openLog(); lerr != nil {
			told = fmt.Errorf("%w; %w", err, lerr)
		}
	}
	a.report(told)
	if exit := new(cmdline.ExitError); errors.As(err, &exit) {
		return exit.Code
	}
	return 1
}

// report writes an error to the log, and to standard error where that is not the log: in a person's words where a person reads it.
func (a *app) report(err error) {
	here := failure(err)
	if terminal.Is(os.Stderr) {
		here = err.Error()
	}
	if !a.log.elsewhere() {
		a.log.error(here)
		return
	}
	a.log.error(failure(err))
	fmt.Fprintln(a.stderr, here)
}

func (a *app) command() *cobra.Command {
	root := &cobra.Command{
		Use:               "runcvm",
		Short:             "OCI runtime that runs each container in a microVM of its own",
		SilenceUsage:      true,
		SilenceErrors:     true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return a.configure(cmd) },
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.Version = version.String()
	// As other runtimes have it: engines show these lines.
	root.SetVersionTemplate("runcvm version {{.Version}}\nspec: " + specs.Version + "\n")
	flags := root.PersistentFlags()
	flags.StringVar(&a.root, "root", defaultRoot, "whose containers are meant: the same id may exist in several roots")
	flags.StringVar(&a.logFile, "log", "", "file that errors are written to (default: standard error)")
	flags.StringVar(&a.logFormat, "log-format", "text", "of the log: text or json")
	flags.BoolVar(&a.systemdCgroup, "systemd-cgroup", false, "let systemd make the cgroup; linux.cgroupsPath is SLICE:PREFIX:NAME then")
	flags.BoolVar(&a.debug, "debug", false, "log more")
	flags.String("rootless", "auto", "taken for the sake of callers that give it")
	flags.String("criu", "", "taken for the sake of callers that give it")
	for flag, key := range map[string]string{"data-dir": "data_dir", "run-dir": "run_dir", "log-level": "log_level"} {
		a.flags[key] = flags.String(flag, "", "setting "+key+", see \"runcvm config show\"")
	}
	root.AddCommand(a.createCommand(), a.startCommand(), a.runCommand(), a.stateCommand(), a.listCommand(), a.killCommand(),
		a.deleteCommand(), a.execCommand(), a.psCommand(), a.pauseCommand(), a.resumeCommand(), a.eventsCommand(), a.updateCommand(),
		a.featuresCommand(), a.specCommand(), refusedCommand("checkpoint"), refusedCommand("restore"))
	return root
}

// configure reads the settings and opens the log.
func (a *app) configure(cmd *cobra.Command) error {
	err := a.openLog()
	if err != nil {
		return err
	}
	if a.cfg, err = config.Load(os.LookupEnv); err != nil {
		return err
	}
	for key, value := range a.flags {
		if *value == "" {
			continue
		}
		if err := a.cfg.Set(key, *value, "--"+key); err != nil {
			return err
		}
	}
	if cmd.Flags().Changed("root") {
		if a.root, err = filepath.Abs(a.root); err != nil {
			return fmt.Errorf("--root: %w", err)
		}
		if a.root == "/" {
			return errors.New("--root: / cannot be a root")
		}
	}
	// ttrpc complains of a connection that ends before its calls do, which is how a verb may end.
	log.L.Logger.SetOutput(io.Discard)
	return nil
}

// openLog opens the log that the flags name.
func (a *app) openLog() error {
	a.logSought = true
	level := levelInfo
	if a.debug {
		level = levelDebug
	}
	l, err := openLog(a.logFile, a.logFormat, level)
	if err == nil {
		a.log = l
	}
	return err
}

func (a *app) containers() *container.Store { return container.New(a.cfg.DataDir, a.cfg.RunDir) }

// find returns the container of this root that is called so.
func (a *app) find(id string) (*container.Entry, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	e, err := a.containers().FindBundle(a.root, id)
	if errdefs.IsNotFound(err) {
		return nil, errNotExist
	}
	return e, err
}

// checkID says whether a container may be called so: runc's rule.
func checkID(id string) error {
	const longest = 1024
	if id == "" || id == "." || id == ".." || len(id) > longest {
		return errInvalidID
	}
	for _, c := range []byte(id) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_', c == '+', c == '-', c == '.':
		default:
			return errInvalidID
		}
	}
	return nil
}

// exactArgs is a verb's number of arguments.
func exactArgs(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != n {
			return fmt.Errorf("runcvm: %q requires exactly %d argument(s)", cmd.Name(), n)
		}
		return nil
	}
}

// minArgs is the least number of a verb's arguments.
func minArgs(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < n {
			return fmt.Errorf("runcvm: %q requires a minimum of %d argument(s)", cmd.Name(), n)
		}
		return nil
	}
}

func refusedCommand(verb string) *cobra.Command {
	return &cobra.Command{
		Use: verb, Short: "Refused: a microVM cannot be checkpointed yet", DisableFlagParsing: true,
		RunE: func(*cobra.Command, []string) error {
			return fmt.Errorf("%s is not supported: runcvm cannot save and restore microVMs", verb)
		},
	}
}
