package monitor

import (
	"context"
	"os"
	"path/filepath"
	"syscall"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/runcvm/runcvm/internal/bundle"
	"github.com/runcvm/runcvm/internal/container"
	"github.com/runcvm/runcvm/internal/oci"
	"github.com/runcvm/runcvm/internal/rootfs"
)

// bundleSource is an OCI bundle: a root of somebody else's, and all that is to be in config.json.
type bundleSource struct {
	*life
	bundle *bundle.Bundle
	// spec is what crun gets.
	spec *specs.Spec
}

func (s *bundleSource) prepare(ctx context.Context, undo func(func() error)) error {
	b, err := bundle.Load(s.req.Bundle.Dir)
	if err != nil {
		return err
	}
	s.bundle = b
	for _, note := range b.CreationNotes(os.LookupEnv) {
		s.logger.Info(note)
	}
	if err := s.files.WriteBundle(b.Spec); err != nil {
		return err
	}
	if s.spec, err = b.GuestSpec(); err != nil {
		return err
	}
	if s.req.Options.Terminal {
		s.spec.Process.ConsoleSize = nil // the terminal on the host has it
	}
	// What people's verbs need to know of it.
	s.prep.spec = oci.Container{
		Args: b.Spec.Process.Args, Env: b.Spec.Process.Env, Cwd: b.Spec.Process.Cwd, Hostname: b.Spec.Hostname,
		ReadOnly: b.Spec.Root.Readonly, Terminal: b.Spec.Process.Terminal, Labels: s.req.Bundle.Annotations,
		StopSignal: syscall.SIGTERM, StopTimeout: oci.DefaultStopTimeout * time.Second,
	}
	if err := s.containerSettings(); err != nil {
		return err
	}
	return s.disks(ctx, undo)
}

// disks makes the image disk of the bundle's root, and the writable disk.
func (s *bundleSource) disks(ctx context.Context, undo func(func() error)) error {
	finished := s.timeline.Phase("image-disk")
	defer finished()
	root, err := rootfs.OpenBundleRoot(s.bundle.Rootfs)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }() // it was read
	cache, err := s.imageDisks()
	if err != nil {
		return err
	}
	s.prep.disk, err = cache.BundleDisk(ctx, root, rootfs.DiskOptions{CacheKey: s.cfg.CacheKey, Cache: s.cfg.CacheActive})
	if err != nil {
		return err
	}
	undo(s.prep.disk.Close)
	finished()
	own := s.path(container.DiskFile)
	if s.prep.rootfsPath = root.WritablePath(own); s.prep.rootfsPath == own && !s.spec.Root.Readonly {
		s.logger.Warn("the root is in no engine's overlay store: what the container writes goes with the runtime's delete, which engines " +
			"call at every stop; let the engine use overlay2, containerd's overlayfs snapshotter or containers/storage's overlay")
	}
	return s.writableDisk(ctx, s.spec)
}

// startDisk has what the bundle binds, and what is in the root beside the image disk.
func (s *bundleSource) startDisk(ctx context.Context, undo func(func() error)) error {
	if err := s.takeChange(ctx); err != nil {
		return err
	}
	defer s.timeline.Phase("start-disk")()
	root, err := rootfs.OpenBundleRoot(s.bundle.Rootfs)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }() // it was read
	var copies []rootfs.Copy
	for _, c := range s.bundle.Copies() {
		s.logger.Info("copied from the host for this start: changes there are not seen", "source", c.Source, "destination", c.Destination)
		copies = append(copies, rootfs.Copy{Source: c.Source, Name: filepath.Base(c.Staged)})
	}
	return s.makeStartDisk(ctx, root, copies, undo)
}

// takeChange writes limits that have changed since create to the writable disk, from which the guest takes them.
func (s *bundleSource) takeChange(ctx context.Context) error {
	changed, err := s.server.bundle.takeChanged(ctx)
	if changed == nil || err != nil {
		return err
	}
	s.bundle.Spec.Linux.Resources = changed
	spec, err := s.bundle.GuestSpec()
	if err != nil {
		return err
	}
	s.spec.Linux.Resources = spec.Linux.Resources
	return s.writableDisk(ctx, s.spec)
}

func (s *bundleSource) further() further {
	return further{process: func(e oci.Exec) *specs.Process { return oci.ExecLike(s.spec.Process, e) }}
}
