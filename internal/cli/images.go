package cli

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/runcvm/runcvm/internal/container"
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

// imageRow is an image as images shows it, with Docker's fields.
type imageRow struct {
	Repository   string
	Tag          string
	ID           string
	Digest       string
	CreatedAt    string
	CreatedSince string
	Size         string
	// Image is the whole image. It is for templates, {{json .Image}}.
	Image image.Image `json:"-"`
}

func (a *app) imagesCommand() *cobra.Command {
	l := listing{
		columns:  "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}",
		headings: map[string]string{"ID": "IMAGE ID", "CreatedSince": "CREATED", "CreatedAt": "CREATED AT"},
		name:     "{{.ID}}",
	}
	var digests bool
	cmd := &cobra.Command{
		Use:   "images [flags] [REPOSITORY[:TAG]]",
		Short: "List images",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				l.filters = append(l.filters, "reference="+args[0])
			}
			match, err := imageFilters.compile(l.filters)
			if err != nil {
				return err
			}
			store, err := a.images()
			if err != nil {
				return err
			}
			images, err := store.List(cmd.Context())
			var rows []imageRow
			for _, i := range images {
				if match(i) {
					rows = append(rows, imageRowOf(i, l.noTrunc))
				}
			}
			if digests {
				l.columns = strings.Replace(l.columns, "{{.ID}}", "{{.Digest}}\t{{.ID}}", 1)
			}
			return errors.Join(printRows(a.stdout, &l, rows), err)
		},
	}
	cmd.Flags().BoolVar(&digests, "digests", false, "show digests")
	l.addFormat(cmd)
	l.addQuiet(cmd, "ids")
	l.addNoTrunc(cmd)
	l.addFilter(cmd, "reference (a name or pattern), label")
	return cmd
}

func imageRowOf(i image.Image, whole bool) imageRow {
	repository, tag := splitTag(i.Name)
	row := imageRow{
		Repository: repository, Tag: tag, ID: i.Digest.String(), Digest: i.Digest.String(),
		CreatedAt: i.Created.Format(timeLayout), CreatedSince: units.HumanDuration(time.Since(i.Created)) + " ago",
		Size: units.HumanSizeWithPrecision(float64(i.Size), 3), Image: i,
	}
	if !whole {
		row.ID = container.Short(i.Digest.Encoded())
	}
	return row
}

// splitTag parts a full name from its tag.
func splitTag(name string) (repository, tag string) {
	if at := strings.LastIndexByte(name, ':'); at > strings.LastIndexByte(name, '/') {
		return name[:at], name[at+1:]
	}
	return name, ""
}

// fullName is a name as the store has it; what is no name stays as it is.
func fullName(name string) string {
	if full, err := image.NormalizeName(name); err == nil {
		return full
	}
	return name
}

var imageFilters = filters[image.Image]{
	"reference": func(pattern string) (func(image.Image) bool, error) {
		if _, err := path.Match(pattern, ""); err != nil {
			return nil, fmt.Errorf("%q: %w", pattern, err)
		}
		pattern = strings.TrimPrefix(strings.TrimPrefix(pattern, "docker.io/"), "library/")
		return func(i image.Image) bool {
			repository, _ := splitTag(i.Name)
			whole, _ := path.Match(pattern, i.Name)
			untagged, _ := path.Match(pattern, repository)
			return whole || untagged
		}, nil
	},
	"label": labelFilter(func(i image.Image) map[string]string { return i.Config.Config.Labels }),
}

func (a *app) rmiCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "rmi [flags] IMAGE...",
		Short: "Remove images",
		Long: "Remove images. The last name of an image that a container was made of, running or not, is kept unless -f is given; the\n" +
			"container itself keeps what it needs of its image in any case.",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			store, err := a.images()
			if err != nil {
				return err
			}
			return a.forEachFound(args, force, func(ref string) error {
				if !force {
					if err := a.unused(cmd.Context(), store, ref); err != nil {
						return err
					}
				}
				return store.Remove(cmd.Context(), ref)
			})
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "also the last name of an image that a container was made of")
	return cmd
}

// unused says which container was made of an image whose last name is to be removed.
func (a *app) unused(ctx context.Context, store *image.Store, ref string) error {
	img, err := store.Get(ctx, ref)
	if err != nil {
		return nil //nolint:nilerr // what cannot be read is Remove's to tell
	}
	all, err := store.List(ctx)
	if err != nil {
		return err
	}
	names := 0
	for _, other := range all {
		if other.Digest == img.Digest {
			names++
		}
	}
	if names > 1 && fullName(ref) == img.Name {
		return nil
	}
	entries, err := a.containers().List()
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.ImageDigest == img.Digest.String() {
			return fmt.Errorf("image %s is the image of container %s (%s): remove that first, or give -f", ref, e.Name, dockerState(e))
		}
	}
	return nil
}

// diskRow is an image disk as cache ls shows it.
type diskRow struct {
	Key, Size, OnDisk, Built string
	InUse                    bool
}

func (a *app) cacheCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "cache", Short: "The image disks that are kept"}
	cmd.AddCommand(a.cacheListCommand(), &cobra.Command{
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
			fmt.Fprintf(a.stdout, "%d disks removed, %s freed\n", len(disks), units.HumanSize(float64(freed)))
			return err
		},
	})
	return cmd
}

func (a *app) cacheListCommand() *cobra.Command {
	l := listing{
		columns:  "{{.Key}}\t{{.Size}}\t{{.OnDisk}}\t{{.Built}}\t{{.InUse}}",
		headings: map[string]string{"OnDisk": "ON DISK", "InUse": "IN USE"},
		name:     "{{.Key}}",
	}
	cmd := &cobra.Command{
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
			rows := make([]diskRow, len(disks))
			for i, d := range disks {
				rows[i] = diskRow{d.Key, units.HumanSize(float64(d.Size)), units.HumanSize(float64(d.Used)),
					units.HumanDuration(time.Since(d.Built)) + " ago", d.InUse}
				if !l.noTrunc {
					rows[i].Key = container.Short(d.Key)
				}
			}
			return printRows(a.stdout, &l, rows)
		},
	}
	l.addFormat(cmd)
	l.addQuiet(cmd, "keys")
	l.addNoTrunc(cmd)
	return cmd
}
