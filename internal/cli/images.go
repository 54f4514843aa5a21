package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/runcvm/runcvm/internal/config"
	"github.com/runcvm/runcvm/internal/image"
)

func (a *app) importCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "import PATH [NAME]",
		Short: "Import an image: an OCI layout, a docker-archive, a root file system's tar, or a directory",
		Args:  cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			store, err := a.images()
			if err != nil {
				return err
			}
			name := ""
			if len(args) == 2 {
				name = args[1]
			}
			img, err := store.Import(cmd.Context(), args[0], name)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(a.stdout, "%s %s\n", img.Name, img.Digest)
			return err
		},
	}
}

func (a *app) imagesCommand() *cobra.Command {
	var quiet bool
	var format string
	cmd := &cobra.Command{
		Use:   "images",
		Short: "List images",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			store, err := a.images()
			if err != nil {
				return err
			}
			images, err := store.List(cmd.Context())
			return errors.Join(a.printImages(images, quiet, format), err)
		},
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "digests only")
	cmd.Flags().StringVar(&format, "format", "table", "table or json")
	return cmd
}

func (a *app) printImages(images []image.Image, quiet bool, format string) error {
	switch {
	case quiet:
		for _, i := range images {
			fmt.Fprintln(a.stdout, i.Digest)
		}
		return nil
	case format == "json":
		enc := json.NewEncoder(a.stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(images)
	case format != "table":
		return fmt.Errorf("--format %q is neither table nor json", format)
	}
	w := tabwriter.NewWriter(a.stdout, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "NAME\tDIGEST\tCREATED\tLAYERS\tSIZE")
	for _, i := range images {
		fmt.Fprintf(w, "%s\t%.19s\t%s ago\t%d\t%s\n", i.Name, i.Digest, age(i.Created), len(i.Layers), roundSize(i.Size))
	}
	return w.Flush()
}

func (a *app) rmiCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "rmi IMAGE...",
		Short: "Remove images",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			store, err := a.images()
			if err != nil {
				return err
			}
			var errs []error
			for _, ref := range args {
				err := store.Remove(cmd.Context(), ref)
				if err == nil {
					fmt.Fprintln(a.stdout, ref)
				}
				errs = append(errs, err)
			}
			return errors.Join(errs...)
		},
	}
}

// roundSize writes a number of bytes for people, with three digits at most.
func roundSize(n int64) string {
	const mib = 1 << 20
	switch {
	case n < mib:
		return fmt.Sprintf("%.3g KiB", float64(n)/1024)
	case n < 1000*mib:
		return fmt.Sprintf("%.3g MiB", float64(n)/mib)
	case n%mib == 0:
		return config.FormatSize(n)
	}
	return fmt.Sprintf("%.3g GiB", float64(n)/(1<<30))
}

func (a *app) cacheCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "cache", Short: "The image disks that are kept"}
	cmd.AddCommand(&cobra.Command{
		Use:   "ls",
		Short: "List image disks",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cache, err := a.disks()
			if err != nil {
				return err
			}
			disks, err := cache.List(cmd.Context())
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(a.stdout, 0, 0, 3, ' ', 0)
			fmt.Fprintln(w, "KEY\tSIZE\tON DISK\tBUILT\tIN USE")
			for _, d := range disks {
				fmt.Fprintf(w, "%.12s\t%s\t%s\t%s ago\t%t\n", d.Key, roundSize(d.Size), roundSize(d.Used), age(d.Built), d.InUse)
			}
			return w.Flush()
		},
	}, &cobra.Command{
		Use:   "prune",
		Short: "Remove the image disks that no container uses; the next run of their image builds them again",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cache, err := a.disks()
			if err != nil {
				return err
			}
			disks, err := cache.Prune(cmd.Context())
			var freed int64
			for _, d := range disks {
				fmt.Fprintln(a.stdout, d.Key)
				freed += d.Used
			}
			fmt.Fprintf(a.stdout, "%d disks removed, %s freed\n", len(disks), roundSize(freed))
			return err
		},
	})
	return cmd
}
