package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/runcvm/runcvm/internal/kernel"
)

func (a *app) kernelsDir() string { return filepath.Join(a.cfg.DataDir, "kernels") }

func (a *app) kernelCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "kernel",
		Short: "Manage guest kernels",
		Long: "Manage guest kernels. Without any of these verbs guests boot the newest kernel of a distribution on this machine; an\n" +
			"imported one is used where run's --kernel or the setting kernel.path names it, or where it is the default.",
	}
	cmd.AddCommand(a.kernelImportCommand(), a.kernelListCommand(), a.kernelCheckCommand(), a.kernelDefaultCommand(),
		a.kernelRemoveCommand())
	return cmd
}

func (a *app) kernelImportCommand() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "import [flags] FILE|DIR",
		Short: "Import a kernel: a vmlinux, a vmlinuz, a Debian package, or a tree with boot/ and lib/modules/",
		Long: "Import a kernel with its modules: a vmlinux or vmlinuz (its configuration is read from config-RELEASE beside it or from\n" +
			"the image, its modules from lib/modules/RELEASE), a Debian package of a kernel image, or a tree with boot/ and\n" +
			"lib/modules/. One that lacks what guests need is refused by the names of the options. Its name is printed.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			k, err := kernel.Import(cmd.Context(), a.kernelsDir(), args[0], name)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(a.stdout, k.Name)
			return err
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "name of the kernel (default: its release)")
	return cmd
}

// kernelRow is a kernel as kernel list shows it.
type kernelRow struct {
	Name         string
	Release      string
	Modules      bool
	Default      bool
	Size         string
	CreatedSince string
	CreatedAt    string
	Source       string
	Path         string
}

func (a *app) kernelListCommand() *cobra.Command {
	l := listing{
		columns:  "{{.Name}}\t{{.Release}}\t{{.Modules}}\t{{.Default}}\t{{.CreatedSince}}\t{{.Size}}\t{{.Source}}",
		headings: map[string]string{"CreatedSince": "IMPORTED", "CreatedAt": "IMPORTED AT"},
		name:     "{{.Name}}",
	}
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List imported kernels",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			kernels, err := kernel.List(a.kernelsDir())
			if err != nil {
				return err
			}
			var rows []kernelRow
			for _, k := range kernels {
				rows = append(rows, kernelRow{
					Name: k.Name, Release: k.Release, Modules: k.Modules, Default: k.Default, Source: k.Source, Path: k.Path,
					Size: units.HumanSizeWithPrecision(float64(k.Size), 3), CreatedAt: k.Created.Format(timeLayout),
					CreatedSince: units.HumanDuration(time.Since(k.Created)) + " ago",
				})
			}
			return printRows(a.stdout, &l, rows)
		},
	}
	l.addFormat(cmd)
	l.addQuiet(cmd, "names")
	return cmd
}

func (a *app) kernelCheckCommand() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "check [flags] [NAME|PATH]",
		Short: "Check whether a kernel has what guests need, and what else they can use",
		Long: "Check whether a kernel has what guests need, and what else they can use; without an argument the one that guests boot.\n" +
			"The exit code is 1 where something is missing that guests cannot do without.",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if format != "table" && format != "json" {
				return fmt.Errorf("--format %q is neither table nor json", format)
			}
			o := kernel.Options{Path: a.cfg.Kernel, Roots: kernel.Roots, CacheDir: a.kernelsDir()}
			if len(args) == 1 {
				o.Path = args[0]
			}
			r, err := kernel.Check(cmd.Context(), o)
			if err != nil {
				return err
			}
			if err := a.printCheck(r, format); err != nil {
				return err
			}
			if !r.Usable {
				a.code = 1
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&format, "format", "table", "table or json")
	return cmd
}

func (a *app) printCheck(r kernel.Report, format string) error {
	if format == "json" {
		enc := json.NewEncoder(a.stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(r)
	}
	fmt.Fprintf(a.stdout, "kernel:         %s\nrelease:        %s\nconfiguration:  %s\nmodules:        %s\n\n",
		r.Vmlinux, orNone(r.Release), orNone(r.ConfigPath), orNone(r.ModulesDir))
	w := tabwriter.NewWriter(a.stdout, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "OPTION\tSTATE\tNEEDED\tFOR")
	for _, o := range r.Options {
		needed, state := "no", string(o.State)
		if o.Required {
			needed = "yes"
		}
		if o.Why != "" {
			state += ": " + o.Why
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", o.Name, state, needed, o.Use)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	verdict := "it has all that guests need"
	if !r.Usable {
		verdict = "it cannot be used: what is needed is missing"
	}
	_, err := fmt.Fprintf(a.stdout, "\n%s\n", verdict)
	return err
}

func orNone(s string) string {
	if s == "" {
		return "none found"
	}
	return s
}

func (a *app) kernelDefaultCommand() *cobra.Command {
	var unset bool
	cmd := &cobra.Command{
		Use:   "default [flags] [NAME]",
		Short: "Print or choose the imported kernel that guests boot when none is asked for",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			switch {
			case unset && len(args) > 0:
				return errors.New("--unset and a name exclude each other")
			case unset:
				return kernel.SetDefault(a.kernelsDir(), "")
			case len(args) == 1:
				return kernel.SetDefault(a.kernelsDir(), args[0])
			}
			name, err := kernel.Default(a.kernelsDir())
			if err != nil || name == "" {
				return err
			}
			_, err = fmt.Fprintln(a.stdout, name)
			return err
		},
	}
	cmd.Flags().BoolVar(&unset, "unset", false, "choose none: the newest kernel of a distribution on this machine")
	return cmd
}

func (a *app) kernelRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "rm NAME...",
		Short: "Remove imported kernels; guests that run them go on",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			var errs []error
			for _, name := range args {
				err := kernel.Remove(a.kernelsDir(), name)
				if err == nil {
					fmt.Fprintln(a.stdout, name)
				}
				errs = append(errs, err)
			}
			return errors.Join(errs...)
		},
	}
}

// locateKernel makes the setting kernel.path, which may be a name or relative, a path for the monitor, which has another directory.
func (a *app) locateKernel() error {
	if a.cfg.Kernel == "" {
		return nil
	}
	path, err := kernel.Locate(a.kernelsDir(), a.cfg.Kernel)
	if err != nil || path == a.cfg.Kernel {
		return err
	}
	return a.cfg.Set("kernel.path", path, "kernel "+a.cfg.Kernel)
}
