package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/runcvm/runcvm/internal/firecracker/install"
)

func (a *app) firecrackerCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "firecracker", Short: "The VMM"}
	var o install.Options
	in := &cobra.Command{
		Use:   "install [flags] FILE|URL",
		Short: "Install a release of Firecracker, after its checksum was verified",
		Long: "Install Firecracker, and its jailer, from a release's .tgz (https://github.com/firecracker-microvm/firecracker/releases)\n" +
			"or from a single program. It is verified by the checksum of --sha256, of a file of checksums, or of the file that lies\n" +
			"beside it under the same name with .sha256.txt, as beside Firecracker's releases; without one it is refused. The\n" +
			"programs that are there are replaced at once, when the new ones have said what they are: guests that run go on.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Source = args[0]
			programs, err := install.Install(cmd.Context(), o)
			for _, p := range programs {
				fmt.Fprintf(a.stdout, "%s %s\n", p.Path, p.Version)
			}
			return err
		},
	}
	in.Flags().StringVar(&o.SHA256, "sha256", "", "the checksum, 64 hexadecimal digits")
	in.Flags().StringVar(&o.Checksums, "checksum-file", "", "path or URL of a file with the checksum, as sha256sum writes it")
	in.Flags().StringVar(&o.Dir, "dir", "/usr/local/bin", "where the programs go")
	in.MarkFlagsMutuallyExclusive("sha256", "checksum-file")
	cmd.AddCommand(in)
	return cmd
}
