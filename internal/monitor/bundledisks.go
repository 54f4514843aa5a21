package monitor

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"syscall"
	"time"

	"github.com/google/uuid"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	bundle "github.com/runcvm/runcvm/internal/bundlestandin"
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
	l.prep.guestSpec = spec
	// What people's verbs need to know of it.
	l.prep.spec = oci.Container{
		Args: b.Spec.Process.Args, Env: b.Spec.Process.Env, Cwd: b.Spec.Process.Cwd, Hostname: b.Spec.Hostname,
		ReadOnly: b.Spec.Root.Readonly, Terminal: b.Spec.Process.Terminal,
		StopSignal: syscall.SIGTERM, StopTimeout: oci.DefaultStopTimeout * time.Second,
	}
	image := l.path("image.erofs")
	finished := l.timeline.Phase("image-disk")
	info, err := rootfs.BuildDirectory(ctx, b.Rootfs, image)
	finished()
	if err != nil {
		return err
	}
	l.prep.disk = &rootfs.Disk{Path: image, UUID: info.UUID}
	defer l.timeline.Phase("rootfs-disk")()
	text, err := json.Marshal(spec)
	if err != nil {
		return fmt.Errorf("write the container's specification: %w", err)
	}
	l.prep.rootfsPath = filepath.Join(l.files.Dir, "rootfs.ext4")
	l.prep.rootfsUUID = uuid.NewString()
	return makeWritable(ctx, l.prep.rootfsPath, rootfs.WritableOptions{
		Size: l.cfg.DiskSize, UUID: l.prep.rootfsUUID, Entrypoint: l.prep.spec.Args, Config: text,
	})
}

// further is how processes are run in the container beside its own, which people's exec asks for.
func (l *life) further() further {
	if l.req.Bundle == nil {
		return further{func(e oci.Exec) *specs.Process { return oci.ExecProcess(l.prep.spec, e) }, l.prep.spec.Groups}
	}
	return further{process: func(e oci.Exec) *specs.Process { return oci.ExecLike(l.prep.guestSpec.Process, e) }}
}
