package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"
)

type inspectFlags struct {
	format, kind string
	size         bool
}

func (a *app) inspectCommand() *cobra.Command {
	var f inspectFlags
	cmd := &cobra.Command{
		Use:   "inspect [flags] NAME...",
		Short: "Print all that is known of containers and images, as JSON",
		Long: "Print all that is known of containers and images, as a JSON array. Where a field is Docker's, its meaning is\n" +
			"Docker's; what is ours is in the field RunCVM. A name that is both a container's and an image's is the\n" +
			"container's.",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.inspect(cmd.Context(), args, &f) },
	}
	cmd.Flags().StringVarP(&f.format, "format", "f", "", "json, or a Go template ({{.State.Status}})")
	cmd.Flags().StringVar(&f.kind, "type", "", "container or image")
	cmd.Flags().BoolVarP(&f.size, "size", "s", false, "with the size of containers' disks")
	return cmd
}

func (a *app) inspect(ctx context.Context, refs []string, f *inspectFlags) error {
	if f.kind != "" && f.kind != "container" && f.kind != "image" {
		return fmt.Errorf("--type %q is neither container nor image", f.kind)
	}
	var objects []any
	var errs []error
	for _, ref := range refs {
		o, err := a.inspectOne(ctx, ref, f)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		objects = append(objects, o)
	}
	return errors.Join(append([]error{printInspected(a, f.format, objects)}, errs...)...)
}

func (a *app) inspectOne(ctx context.Context, ref string, f *inspectFlags) (any, error) {
	if f.kind != "image" {
		e, err := a.containers().Find(ref)
		if err == nil {
			return a.inspectContainer(e, f.size)
		}
		if f.kind == "container" || !errdefs.IsNotFound(err) {
			return nil, err
		}
	}
	images, err := a.images()
	if err != nil {
		return nil, err
	}
	img, err := images.Get(ctx, ref)
	if err == nil {
		return a.inspectImage(ctx, images, img)
	}
	if f.kind == "" && errdefs.IsNotFound(err) {
		return nil, fmt.Errorf("no such object: %s: it is neither a container (\"runcvm ps -a\") nor an image (\"runcvm images\")", ref)
	}
	return nil, err
}

// printInspected prints objects. As in Docker a template may use the names of Docker's fields as they are in Go and as they are in
// JSON (.ID and .Id).
func printInspected(a *app, format string, objects []any) error {
	if len(objects) == 0 && format != "" {
		return nil
	}
	err := printObjects(a.stdout, format, objects)
	if err == nil || format == "" || format == "json" {
		return err
	}
	raw := make([]any, len(objects))
	for i, o := range objects {
		b, jerr := json.Marshal(o)
		if jerr != nil {
			return jerr
		}
		d := json.NewDecoder(bytes.NewReader(b))
		d.UseNumber()
		if jerr := d.Decode(&raw[i]); jerr != nil {
			return jerr
		}
	}
	if printObjects(a.stdout, format, raw) == nil {
		return nil
	}
	return err
}
