package cli

import (
	"context"
	"errors"
	"fmt"
	"os/signal"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/runcvm/runcvm/internal/cmdline"
	"github.com/runcvm/runcvm/internal/image"
	"github.com/runcvm/runcvm/internal/registry"
)

func (a *app) pullCommand() *cobra.Command {
	var platform string
	var quiet bool
	cmd := &cobra.Command{
		Use:   "pull [flags] IMAGE",
		Short: "Get an image from a registry, and make its disk ready",
		Long: "Get an image from a registry, and make its disk ready. Names are Docker's: \"debian\" stands for\n" +
			"docker.io/library/debian:latest. Credentials are those of \"docker login\" or \"podman login\", credential helpers\n" +
			"included. A pull that was interrupted goes on where it was. The full name goes to standard output, all else to\n" +
			"standard error.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
			defer stop()
			ref, err := registry.Parse(args[0])
			if err != nil {
				return err
			}
			if err := a.pull(ctx, ref, platform, quiet); err != nil {
				if ctx.Err() != nil {
					err = fmt.Errorf("pull %s: interrupted; the next pull goes on from there", ref)
					return &cmdline.ExitError{Err: err, Code: pullInterrupted}
				}
				return err
			}
			_, err = fmt.Fprintln(a.stdout, ref)
			return err
		},
	}
	cmd.Flags().StringVar(&platform, "platform", "", "platform of the image, such as linux/arm64 (default: the host's)")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "say nothing but the name")
	return cmd
}

// pullInterrupted is the exit code after SIGINT, as a shell has it.
const pullInterrupted = 128 + int(syscall.SIGINT)

// pull gets an image, and tells on standard error how that goes.
func (a *app) pull(ctx context.Context, ref registry.Reference, platform string, quiet bool) (err error) {
	store, err := a.images()
	if err != nil {
		return err
	}
	mirrors, err := registry.ParseMirrors(a.cfg.RegistryMirrors)
	if err != nil {
		return fmt.Errorf("registry.mirrors: %w", err)
	}
	p := newProgress(a.stderr, ref, quiet)
	client, err := registry.New(registry.Options{
		Mirrors: mirrors, CAFile: a.cfg.RegistryCAFile, Timeout: a.cfg.RegistryTimeout, Progress: p,
	})
	if err != nil {
		return err
	}
	defer client.Close()
	to := registry.Target{Store: store, CacheKey: a.cfg.CacheKey}
	if a.cfg.CacheActive {
		if to.Disks, err = a.disks(); err != nil {
			return err
		}
	}
	p.begin()
	r, err := client.Pull(ctx, to, ref, platform)
	p.end(r, err)
	return err
}

// Values of run --pull.
const (
	pullMissing = "missing"
	pullAlways  = "always"
	pullNever   = "never"
)

// pullFlags are what run and its kin are told of pulling.
type pullFlags struct {
	policy, platform string
	quiet            bool
}

func (f *pullFlags) add(flags *pflag.FlagSet) {
	flags.StringVar(&f.policy, "pull", pullMissing, "get the image from its registry: missing, always, never")
	flags.StringVar(&f.platform, "platform", "", "platform of the image; it has to be the guest's")
	flags.BoolVarP(&f.quiet, "quiet", "q", false, "say nothing of a pull")
}

// check refuses what cannot be.
func (f pullFlags) check() error {
	switch f.policy {
	case pullMissing, pullAlways, pullNever:
	default:
		return fmt.Errorf("--pull %q is none of %s, %s, %s", f.policy, pullMissing, pullAlways, pullNever)
	}
	if f.platform == "" {
		return nil
	}
	p, err := platforms.Parse(f.platform)
	if err != nil {
		return fmt.Errorf("--platform: %w", err)
	}
	if host := platforms.DefaultSpec(); !platforms.Only(host).Match(p) {
		return fmt.Errorf("--platform %s: guests here are linux/%s, and nothing emulates another processor for their programs", f.platform,
			host.Architecture)
	}
	return nil
}

// ensureImage gets the image of a container where the policy says so.
func (a *app) ensureImage(ctx context.Context, name string, f pullFlags) error {
	if f.policy == pullNever {
		return nil // whoever opens it says that it is missing
	}
	if f.policy == pullMissing {
		store, err := a.images()
		if err != nil {
			return err
		}
		img, err := store.Get(ctx, name)
		if err == nil && (f.platform == "" || img.CheckPlatform() == nil) {
			return nil
		}
		if err != nil && !errdefs.IsNotFound(err) {
			return err
		}
	}
	ref, err := registry.Parse(name)
	if err != nil {
		return err
	}
	if f.policy == pullMissing && !f.quiet {
		fmt.Fprintf(a.stderr, "Unable to find image '%s' locally\n", name)
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	err = a.pull(ctx, ref, f.platform, f.quiet)
	if ctx.Err() != nil {
		return errors.New("interrupted while its image was pulled; the next pull goes on from there")
	}
	return err
}

func (a *app) tagCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "tag IMAGE NAME",
		Short: "Give an image another name",
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			store, err := a.images()
			if err != nil {
				return err
			}
			if strings.Contains(args[1], "@") {
				return fmt.Errorf("%w: a new name cannot have a digest", errdefs.ErrInvalidArgument)
			}
			_, err = store.Tag(cmd.Context(), args[0], args[1], "")
			return err
		},
	}
}

func (a *app) saveCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "save [flags] IMAGE...",
		Short: "Write images as an OCI layout, which \"runcvm import\", \"docker load\" and skopeo read",
		Long: "Write images as an OCI image layout: as a tar to a file or to standard output, or as a directory where -o names an\n" +
			"empty one or ends in a slash. \"runcvm import\", \"docker load\" and skopeo read either; every digest stays what it is.",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
			defer stop()
			store, err := a.images()
			if err != nil {
				return err
			}
			return a.save(ctx, store, args, output)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "file, or directory; - or none: standard output")
	return cmd
}

func (a *app) save(ctx context.Context, store *image.Store, refs []string, output string) error {
	if output != "" && output != "-" {
		return store.SaveTo(ctx, refs, output)
	}
	if isTerminal(a.stdout) {
		return errors.New("standard output is a terminal: use -o FILE, or redirect it")
	}
	return store.Save(ctx, refs, a.stdout)
}
