package cli

import "github.com/spf13/cobra"

func (a *app) configCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "The settings"}
	l := listing{columns: "{{.Key}}\t{{json .Value}}\t{{.Origin}}\t{{.Env}}\t{{.Doc}}", name: "{{.Key}}",
		headings: map[string]string{"Origin": "FROM", "Env": "ENVIRONMENT", "Doc": "MEANING"}}
	show := &cobra.Command{
		Use:   "show",
		Short: "Print each setting, its value and where that came from",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return printRows(a.stdout, &l, a.cfg.Values())
		},
	}
	l.addFormat(show)
	l.addQuiet(show, "keys")
	cmd.AddCommand(show)
	return cmd
}
