package cli

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/runcvm/runcvm/internal/cmdline"
	"github.com/runcvm/runcvm/internal/container"
	"github.com/runcvm/runcvm/internal/image"
	"github.com/runcvm/runcvm/internal/monitor"
	"github.com/runcvm/runcvm/internal/oci"
	"github.com/runcvm/runcvm/internal/sandbox"
)

func (a *app) createCommand() *cobra.Command {
	f := new(runFlags)
	cmd := &cobra.Command{
		Use:   "create [flags] IMAGE [COMMAND [ARG...]]",
		Short: "Make a container without starting it",
		Long:  "Make a container as run does, print its id, and leave it to \"runcvm start\".",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.request(cmd, f, args); err != nil {
				return &cmdline.ExitError{Err: err, Code: monitor.ExitFailure}
			}
			if err := a.ensureImage(cmd.Context(), f.request.Image, f.pull); err != nil {
				return err
			}
			return a.create(cmd.Context(), f.request)
		},
	}
	f.add(cmd.Flags())
	return cmd
}

// create makes the container's directory with all that a start needs.
func (a *app) create(ctx context.Context, req monitor.Request) error {
	images, err := a.images()
	if err != nil {
		return err
	}
	img, err := images.Get(ctx, req.Image)
	if err != nil {
		return err
	}
	spec, err := oci.Resolve(img.Config.Config, req.Options)
	if err != nil {
		return fmt.Errorf("image %s: %w", req.Image, err)
	}
	record := container.Record{
		ID: req.ID, Name: req.Name, Image: req.Image, ImageDigest: img.Digest.String(), Command: spec.Args,
		Created: time.Now(), State: string(sandbox.Created), Remove: req.Remove,
		Labels: oci.Labels(img.Config.Config, req.Options),
	}
	h, err := a.containers().Create(ctx, record)
	if err != nil {
		return err
	}
	err = h.WriteRequest(req)
	if err == nil {
		err = images.Hold(ctx, img, filepath.Join(h.Dir, container.ImageFile))
	}
	if err == nil {
		err = h.Event(record, "create", nil)
	}
	if err = errors.Join(err, h.Close(req.Name, err != nil)); err != nil {
		return err
	}
	_, err = fmt.Fprintln(a.stdout, req.ID)
	return err
}

// imageOf is the image that a container holds.
func imageOf(e *container.Entry) (image.Image, error) {
	img, err := image.Held(filepath.Join(e.Dir, container.ImageFile))
	if err != nil {
		return img, fmt.Errorf("the image of container %s: %w", e.Name, err)
	}
	return img, nil
}
