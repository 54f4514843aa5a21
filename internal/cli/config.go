package cli

import (
	"encoding/json"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

func (a *app) configCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "The settings"}
	var format string
	show := &cobra.Command{
		Use:   "show",
		Short: "Print each setting, its value and where that came from",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if format == "json" {
				enc := json.NewEncoder(a.stdout)
				enc.SetIndent("", "  ")
				return enc.Encode(a.cfg.Values())
			}
			if format != "table" {
				return fmt.Errorf("--format %q is neither table nor json", format)
			}
			w := tabwriter.NewWriter(a.stdout, 0, 0, 3, ' ', 0)
			fmt.Fprintln(w, "KEY\tVALUE\tFROM\tENVIRONMENT\tMEANING")
			for _, v := range a.cfg.Values() {
				fmt.Fprintf(w, "%s\t%q\t%s\t%s\t%s\n", v.Key, v.Value, v.Origin, v.Env, v.Doc)
			}
			return w.Flush()
		},
	}
	show.Flags().StringVar(&format, "format", "table", "table or json")
	cmd.AddCommand(show)
	return cmd
}
