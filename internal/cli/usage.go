package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/runcvm/runcvm/internal/cmdline"
	"github.com/runcvm/runcvm/internal/monitor"
)

// explainUsage has errors of the command line say of which verb they are and how that is used. A flag that is wrong ends with 125
// at every verb, and a number of arguments that is wrong with 1, as with Docker.
func explainUsage(root *cobra.Command) {
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return &cmdline.ExitError{Err: usageError(cmd, err), Code: monitor.ExitFailure}
	})
	explainArguments(root)
	root.InitDefaultHelpCmd()
	help, _, _ := root.Find([]string{"help"})
	show := help.Run
	help.Run, help.RunE = nil, func(cmd *cobra.Command, args []string) error {
		if _, _, err := root.Find(args); err != nil {
			return err
		}
		show(cmd, args)
		return nil
	}
}

func explainArguments(cmd *cobra.Command) {
	if cmd.HasParent() && cmd.HasSubCommands() {
		// Cobra shows the help of a command that does nothing itself, whatever follows it.
		cmd.DisableFlagsInUseLine = true
		cmd.Args = cobra.NoArgs
		cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	}
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return usageError(cmd, err)
			}
			return nil
		}
	}
	for _, sub := range cmd.Commands() {
		explainArguments(sub)
	}
}

func usageError(cmd *cobra.Command, err error) error {
	if !cmd.HasParent() {
		return fmt.Errorf("%w; see %q", err, cmd.CommandPath()+" --help")
	}
	verb := strings.TrimPrefix(cmd.CommandPath(), cmd.Root().Name()+" ")
	return fmt.Errorf("%s: %w\n\nUsage:  %s\n\nSee %q", verb, err, cmd.UseLine(), cmd.CommandPath()+" --help")
}
