package cli

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/cmdline"
	"github.com/runcvm/runcvm/internal/container"
	"github.com/runcvm/runcvm/internal/monitor"
	"github.com/runcvm/runcvm/internal/terminal"
)

// runFlags are the flags of run that need more than a field.
type runFlags struct {
	request    monitor.Request
	envFiles   []string
	entrypoint string
	size       string
	kernel     string
	timeout    string
	detachKeys string
	restart    string
	options    optionFlags
	network    networkFlags
	pull       pullFlags
}

func (a *app) runCommand() *cobra.Command { return a.runCommandWith(new(runFlags)) }

func (a *app) runCommandWith(f *runFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "run [flags] IMAGE [COMMAND [ARG...]]",
		Short: "Run a command of an image in a microVM",
		Long: "Run a command of an image in a microVM. Output, errors and exit code are the command's; 125 says that it could not\n" +
			"be run, 126 that it cannot be executed, 127 that it was not found.\n\n" +
			"With -t, -d and -i together, or once the detach keys were pressed, \"runcvm attach\" comes back to it.",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.request(cmd, f, args); err != nil {
				return &cmdline.ExitError{Err: err, Code: monitor.ExitFailure}
			}
			if err := a.ensureImage(cmd.Context(), f.request.Image, f.pull); err != nil {
				return &cmdline.ExitError{Err: err, Code: monitor.ExitFailure}
			}
			if f.request.Options.Terminal && !f.request.Detach {
				return a.runAttached(cmd.Context(), f.request, f.detachKeys)
			}
			return a.run(cmd.Context(), f.request)
		},
	}
	f.add(cmd.Flags())
	cmd.Flags().BoolVarP(&f.request.Detach, "detach", "d", false, "print the id and leave it running; \"runcvm logs\" has its output")
	cmd.Flags().StringVar(&f.detachKeys, "detach-keys", terminal.DefaultDetachKeys,
		"keys that leave a container with a terminal running; empty: none")
	return cmd
}

// add adds the flags of every verb that makes a container.
func (f *runFlags) add(flags *pflag.FlagSet) {
	flags.SetInterspersed(false) // what follows the image is the command's
	r := &f.request
	flags.BoolVarP(&r.Stdin, "interactive", "i", false, "give the command this standard input")
	flags.BoolVarP(&r.Options.Terminal, "tty", "t", false, "give the command a terminal")
	flags.BoolVar(&r.Remove, "rm", false, "keep nothing after its end")
	flags.StringVar(&r.Name, "name", "", "name of the container")
	flags.StringArrayVarP(&r.Options.Env, "env", "e", nil, "environment variable NAME=VALUE, or NAME for the value here")
	flags.StringArrayVar(&f.envFiles, "env-file", nil, "file with a variable a line")
	flags.StringVarP(&r.Options.Cwd, "workdir", "w", "", "working directory")
	flags.StringVarP(&r.Options.User, "user", "u", "", "user NAME|UID[:GROUP|GID]")
	flags.Bool("help", false, "help for run") // without cobra's -h, which is the host name as in Docker
	flags.StringVarP(&r.Options.Hostname, "hostname", "h", "", "host name (default: the id's first 12 digits)")
	flags.StringVar(&f.entrypoint, "entrypoint", "", "program in place of the image's entrypoint; empty: none")
	flags.BoolVar(&r.Options.ReadOnly, "read-only", false, "make the root file system read-only")
	flags.StringArrayVar(&r.Options.Tmpfs, "tmpfs", nil, "file system in memory, PATH[:OPTIONS]")
	f.options.register(flags, &r.Options)
	flags.StringVar(&f.size, "size", "", "size of the writable disk (10g)")
	flags.StringVar(&f.kernel, "kernel", "",
		"guest kernel: the name of an imported one, a vmlinux, vmlinuz, .deb or a tree with boot/ and lib/modules/")
	f.network.add(flags)
	f.pull.add(flags)
	flags.StringVar(&f.timeout, "timeout", "", "kill it after this time: seconds, or a duration (90s, 10m)")
	flags.StringVar(&f.restart, "restart", "no", "start it again after its end: no, on-failure[:N], always, unless-stopped")
	f.options.refuse(flags)
}

// request turns flags and arguments into what the monitor is asked, and reports all faults at once.
func (a *app) request(cmd *cobra.Command, f *runFlags, args []string) error {
	r := &f.request
	r.Zero, r.Image, r.Options.Cmd = a.zero, args[0], args[1:]
	r.ID = newID()
	var errs []error
	if r.Name == "" {
		r.Name = container.Short(r.ID)
	}
	if !container.ValidName(r.Name) {
		errs = append(errs, fmt.Errorf("name %q: only letters, digits, '_', '.' and '-', beginning with a letter or digit", r.Name))
	}
	if cmd.Flags().Changed("entrypoint") {
		r.Options.Entrypoint = []string{f.entrypoint}
	}
	env, err := environment(f.envFiles, r.Options.Env)
	r.Options.Env = env
	errs = append(errs, err)
	errs = append(errs, f.network.apply(r, a.cfg)...)
	errs = append(errs, f.options.apply(&r.Options, cmd.Flags().Changed)...)
	if f.size != "" {
		errs = append(errs, flagError("size", a.cfg.Set("disk.size", f.size, "--size")))
	}
	if f.kernel != "" {
		errs = append(errs, flagError("kernel", a.cfg.Set("kernel.path", f.kernel, "--kernel")))
	}
	if f.timeout != "" {
		r.Timeout, err = duration(f.timeout)
		errs = append(errs, flagError("timeout", err))
	}
	errs = append(errs, a.locateKernel())
	if f.kernel != "" {
		// By this origin later starts know that it is the container's own.
		errs = append(errs, flagError("kernel", a.cfg.Set("kernel.path", a.cfg.Kernel, "--kernel "+f.kernel)))
	}
	r.Restart, err = monitor.ParseRestartPolicy(f.restart)
	errs = append(errs, flagError("restart", err))
	if r.Remove && !r.Restart.None() {
		errs = append(errs, errors.New("conflicting options: --restart and --rm"))
	}
	r.Settings = a.cfg.Values()
	errs = append(errs, r.Options.Check(), f.pull.check())
	return errors.Join(errs...)
}

func flagError(name string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("--%s: %w", name, err)
}

func duration(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if n, aerr := strconv.Atoi(s); aerr == nil {
		d, err = time.Duration(n)*time.Second, nil
	}
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%q is neither a number of seconds nor a duration (90s, 10m)", s)
	}
	return d, nil
}

// newID is 64 hexadecimal digits, like Docker's.
func newID() string {
	b := make([]byte, 32)
	rand.Read(b)
	return hex.EncodeToString(b)
}

// environment is what the files, then the flags say, by Docker's rules: NAME alone takes this process's value, or is left out
// where there is none.
func environment(files, flags []string) ([]string, error) {
	env, err := entriesOf("env-file", files)
	var resolved []string
	for _, e := range append(env, flags...) {
		if !strings.Contains(e, "=") {
			v, ok := os.LookupEnv(e)
			if !ok {
				continue
			}
			e += "=" + v
		}
		resolved = append(resolved, e)
	}
	return resolved, err
}

// entriesOf reads files with an entry NAME=VALUE or NAME a line; lines that are empty or begin with # do not count.
func entriesOf(flag string, files []string) ([]string, error) {
	var entries []string
	var errs []error
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			errs = append(errs, fmt.Errorf("--%s: %w", flag, err))
			continue
		}
		lines := bufio.NewScanner(bytes.NewReader(b))
		lines.Buffer(nil, len(b)+1)
		for n := 1; lines.Scan(); n++ {
			line := strings.TrimLeft(lines.Text(), " \t")
			if line == "" || line[0] == '#' {
				continue
			}
			if name, _, _ := strings.Cut(line, "="); name == "" || strings.ContainsAny(name, " \t") {
				errs = append(errs, fmt.Errorf("--%s %s: line %d: %q is no name", flag, file, n, name))
				continue
			}
			entries = append(entries, line)
		}
	}
	return entries, errors.Join(errs...)
}

func (a *app) run(ctx context.Context, req monitor.Request) error {
	signals := monitor.Signals()
	signal.Ignore(syscall.SIGPIPE) // the container's output is the monitor's
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	started := make(chan *monitor.Spawned, 1)
	go relaySignals(signals, cancel, started)
	m, err := monitor.Spawn(ctx, req)
	if err != nil {
		return a.startError(req, err)
	}
	if req.Detach {
		_, err := fmt.Fprintln(a.stdout, req.ID)
		return err
	}
	started <- m
	if ctx.Err() != nil {
		m.Interrupt() // the signal came when the start was just over
	}
	a.noteEmulation(req)
	// Exactly one process holds the container's standard files: from here on that is the monitor.
	if err := dropStdio(); err != nil {
		return &cmdline.ExitError{Err: err, Code: monitor.ExitFailure}
	}
	return a.waitFor(m, req)
}

// relaySignals hands signals to the monitor; before the container runs, one that asks for an end ends the start.
func relaySignals(signals <-chan os.Signal, cancel context.CancelFunc, started <-chan *monitor.Spawned) {
	var m *monitor.Spawned
	for {
		select {
		case m = <-started:
		case s := <-signals:
			switch {
			case m != nil:
				_ = m.Signal(s) // fails only when it has ended
			case s == syscall.SIGINT || s == syscall.SIGTERM || s == syscall.SIGHUP:
				cancel()
			}
		}
	}
}

// sweep removes what a monitor that was killed could not.
func (a *app) sweep(req monitor.Request) {
	e, err := a.containers().Find(req.ID)
	if err == nil && req.Remove {
		_ = e.Discard()
	}
}

// dropStdio replaces standard input and output by /dev/null; standard error stays for what this process itself has to say.
func dropStdio() error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("let go of the standard files: %w", err)
	}
	defer null.Close()
	for _, fd := range []int{0, 1} {
		if err := unix.Dup3(int(null.Fd()), fd, 0); err != nil {
			return fmt.Errorf("let go of the standard files: %w", err)
		}
	}
	return nil
}

// noteEmulation tells a person at a terminal; a program that reads standard error gets nothing but the container's.
func (a *app) noteEmulation(req monitor.Request) {
	if _, err := unix.IoctlGetTermios(int(os.Stderr.Fd()), unix.TCGETS); err != nil {
		return
	}
	if e, err := a.containers().Find(req.ID); err == nil && e.VMM.Emulated {
		fmt.Fprintln(a.stderr, "runcvm: the guest is emulated by", e.VMM.Path+": no security boundary")
	}
}
