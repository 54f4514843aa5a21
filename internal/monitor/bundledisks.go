package monitor

import (
	"context"
	"path/filepath"
	"syscall"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/runcvm/runcvm/internal/bundle"
	"github.com/runcvm/runcvm/internal/container"
	"github.com/runcvm/runcvm/internal/oci"
	"github.com/runcvm/runcvm/internal/rootfs"
)

// bundleDisks makes the disks of a container that is made of a bundle.
func (l *life) bundleDisks(ctx context.Context, undo func(func() error)) error {
	b, err := bundle.Load(l.req.Bundle.Dir)
	if err != nil {
		return err
	}
	for _, note := range b.Notes {
		l.logger.Info(note)
	}
	if err := l.files.WriteBundle(b.Spec); err != nil {
		return err
	}
	spec, err := b.GuestSpec()
	if err != nil {
		return err
	}
	l.prep.guestSpec, l.prep.bundle = spec, b
	if l.req.Options.Terminal {
		spec.Process.ConsoleSize = nil // the terminal on the host has it
	}
	// What people's verbs need to know of it.
	l.prep.spec = oci.Container{
		Args: b.Spec.Process.Args, Env: b.Spec.Process.Env, Cwd: b.Spec.Process.Cwd, Hostname: b.Spec.Hostname,
		ReadOnly: b.Spec.Root.Readonly, Terminal: b.Spec.Process.Terminal,
		StopSignal: syscall.SIGTERM, StopTimeout: oci.DefaultStopTimeout * time.Second,
	}
	if err := l.containerSettings(); err != nil {
		return err
	}
	return l.rootDisks(ctx, b, undo)
}

// rootDisks makes the image disk of a bundle's root, and the writable disk.
func (l *life) rootDisks(ctx context.Context, b *bundle.Bundle, undo func(func() error)) error {
	finished := l.timeline.Phase("image-disk")
	defer finished()
	root, err := rootfs.OpenBundleRoot(b.Rootfs)
	if err != nil {
		return err
	}
	defer root.Close()
	cache, err := l.imageDisks()
	if err != nil {
		return err
	}
	l.prep.disk, err = cache.BundleDisk(ctx, root, rootfs.DiskOptions{CacheKey: l.cfg.CacheKey, Cache: l.cfg.CacheActive})
	if err != nil {
		return err
	}
	undo(l.prep.disk.Close)
	finished()
	l.prep.rootfsPath = root.WritablePath(l.path(container.DiskFile))
	return l.writableDiskWith(ctx, l.prep.guestSpec)
}

// bundleStartDisk is startDisk for a container that is made of a bundle.
func (l *life) bundleStartDisk(ctx context.Context, undo func(func() error)) error {
	defer l.timeline.Phase("start-disk")()
	root, err := rootfs.OpenBundleRoot(l.prep.bundle.Rootfs)
	if err != nil {
		return err
	}
	defer root.Close()
	var copies []rootfs.Copy
	for _, c := range l.prep.bundle.Copies() {
		l.logger.Info("copied from the host for this start: changes there are not seen", "source", c.Source, "destination", c.Destination)
		copies = append(copies, rootfs.Copy{Source: c.Source, Name: filepath.Base(c.Staged)})
	}
	return l.makeStartDisk(ctx, root, copies, undo)
}

// further is how processes are run in the container beside its own, which people's exec asks for.
func (l *life) further() further {
	if l.req.Bundle == nil {
		return further{func(e oci.Exec) *specs.Process { return oci.ExecProcess(l.prep.spec, e) }, l.prep.spec.Groups}
	}
	return further{process: func(e oci.Exec) *specs.Process { return oci.ExecLike(l.prep.guestSpec.Process, e) }}
}
