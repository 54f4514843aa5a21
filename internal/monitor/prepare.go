package monitor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/google/uuid"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sync/errgroup"

	"github.com/runcvm/runcvm/internal/cleanup"
	"github.com/runcvm/runcvm/internal/container"
	"github.com/runcvm/runcvm/internal/kernel"
	"github.com/runcvm/runcvm/internal/oci"
	"github.com/runcvm/runcvm/internal/programs"
	"github.com/runcvm/runcvm/internal/rootfs"
	"github.com/runcvm/runcvm/internal/sandbox"
)

// prepared is what a boot needs.
type prepared struct {
	vmm     vmm
	sandbox *sandbox.Sandbox
	// spec is what the container is, whatever it is made of.
	spec oci.Container
	// start is the disk of this start; nil where there is none.
	start      *rootfs.Disk
	disk       *rootfs.Disk
	rootfsUUID string
	rootfsPath string
	kernel     string
	initramfs  string
	modules    kernel.ModuleDisk
}

func (p *prepared) files() sandbox.BootFiles {
	drives := []sandbox.Drive{
		{ID: "image", Path: p.disk.Path, ReadOnly: true},
		{ID: "rootfs", Path: p.rootfsPath},
	}
	if p.start != nil {
		drives = append(drives, sandbox.Drive{ID: "start", Path: p.start.Path, ReadOnly: true})
	}
	if p.modules.Path != "" {
		drives = append(drives, sandbox.Drive{ID: "modules", Path: p.modules.Path, ReadOnly: true})
	}
	return sandbox.BootFiles{Kernel: p.kernel, Initramfs: p.initramfs, Drives: drives}
}

func (p *prepared) disks() sandbox.Disks {
	d := sandbox.Disks{Image: p.disk.UUID, Rootfs: p.rootfsUUID}
	if p.start != nil {
		d.Start = p.start.UUID
	}
	return d
}

// prepare makes the disks and runs the VMM, both at once, and leaves the sandbox ready to boot.
func (l *life) prepare(ctx context.Context, undo *cleanup.Stack) error {
	var err error
	if l.prep.vmm, err = chooseVMM(l.cfg); err != nil {
		return err
	}
	if l.prep.vmm.emulated {
		l.logger.Info("the guest is emulated: no security boundary", "vmm", l.prep.vmm.path)
	}
	var mu sync.Mutex // undo's
	add := func(step func() error) {
		mu.Lock()
		defer mu.Unlock()
		undo.AddFunc(step)
	}
	whole := ctx
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return l.source.prepare(ctx, add) })
	group.Go(func() error { return l.prepareKernel(ctx) })
	group.Go(func() (err error) {
		if l.prep.sandbox, err = sandbox.Launch(ctx, l.sandboxConfig()); err != nil {
			return err
		}
		add(func() error { l.prep.sandbox.Kill(); return nil })
		return nil
	})
	if l.connects() && !l.req.PublishAll {
		group.Go(func() error { return l.attachNetworks(ctx, add) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	if l.connects() && l.req.PublishAll { // the image says which ports
		if err := l.attachNetworks(whole, add); err != nil {
			return err
		}
	}
	l.update(func(r *container.Record) {
		r.Labels, r.Command = l.prep.spec.Labels, l.prep.spec.Args
		r.VMM = container.VMM{Path: l.prep.vmm.path, Version: l.prep.sandbox.VMMVersion(), Emulated: l.prep.vmm.emulated}
		r.VMM.MemoryMiB, r.VMM.CPUs = guestSize(l.cfg, l.req.Options.Limits)
	})
	return nil
}

func (l *life) sandboxConfig() sandbox.Config {
	memory, cpus := guestSize(l.cfg, l.req.Options.Limits)
	hostname := l.req.Options.Hostname
	if hostname == "" {
		hostname = container.Short(l.req.ID)
	}
	return sandbox.Config{
		ID: l.req.ID, VMM: l.prep.vmm.path, Dir: l.files.RunDir, Vsock: container.VsockSocket,
		ConsoleLog: l.path(container.ConsoleLog), VMMLog: l.path(container.VMMLog),
		KernelArgs: l.cfg.KernelArgs, MemoryMiB: memory, VCPUs: cpus,
		BootTimeout: l.cfg.BootTimeout, Hostname: hostname, LogLevel: l.cfg.LogLevel,
		Log: l.logger, Timeline: l.timeline,
	}
}

func (l *life) prepareKernel(ctx context.Context) error {
	defer l.timeline.Phase("kernel-files")()
	cache := filepath.Join(l.cfg.DataDir, "kernels")
	k, err := kernel.Find(ctx, kernel.Options{Path: l.cfg.Kernel, Roots: kernel.Roots, CacheDir: cache})
	if err != nil {
		return err
	}
	agent, err := programs.Agent(l.cfg.Agent)
	if err != nil {
		return err
	}
	crun, err := programs.Find(l.cfg.Crun)
	if err != nil {
		return fmt.Errorf("crun, which runs containers in the guest: %w", err)
	}
	if l.prep.modules, err = kernel.Modules(ctx, k, cache); err != nil {
		return err
	}
	l.prep.kernel = k.Vmlinux
	l.prep.initramfs, err = kernel.Initramfs(ctx, k,
		kernel.InitramfsOptions{Agent: agent, Crun: crun, CacheDir: cache, Modules: l.prep.modules})
	return err
}

// imageDisks is the cache of the disks that containers share.
func (l *life) imageDisks() (*rootfs.Cache, error) {
	return rootfs.OpenCache(filepath.Join(l.cfg.DataDir, "disks"))
}

// containerSettings takes the two switches of the cache from the container's environment, and nothing else: an image
// must not name a path of the host or widen a right.
func (l *life) containerSettings() error {
	for key, name := range map[string]string{"disk.cache": "ROOTFS_CACHE_ACTIVE", "disk.cache_key": "RUNCVM_CACHE_KEY"} {
		v, ok := l.prep.spec.Lookup(name)
		if !ok {
			continue
		}
		if err := l.cfg.Set(key, v, "the container's $"+name); err != nil {
			return err
		}
	}
	return nil
}

// writableDisk makes the writable disk, or uses the one that is there, with the command and this specification.
func (l *life) writableDisk(ctx context.Context, guest *specs.Spec) error {
	defer l.timeline.Phase("rootfs-disk")()
	spec, err := json.Marshal(guest)
	if err != nil {
		return fmt.Errorf("write the container's specification: %w", err)
	}
	options := rootfs.WritableOptions{
		Size: l.cfg.DiskSize, UUID: uuid.NewString(), Entrypoint: l.prep.spec.Args, Config: spec,
	}
	if _, err := os.Lstat(l.prep.rootfsPath); errors.Is(err, fs.ErrNotExist) {
		l.prep.rootfsUUID = options.UUID
		return makeWritable(ctx, l.prep.rootfsPath, options)
	}
	used, err := rootfs.RestageWritable(ctx, l.prep.rootfsPath, options)
	if err != nil {
		return err
	}
	if used.Repaired {
		l.logger.Warn("the writable disk was not as an orderly end leaves it, and was mended")
	}
	l.prep.rootfsUUID = used.UUID
	return nil
}

// makeWritable makes the container's disk, whole or not at all: a monitor may be killed meanwhile.
func makeWritable(ctx context.Context, path string, o rootfs.WritableOptions) error {
	fresh := path + ".new"
	if err := os.RemoveAll(fresh); err != nil {
		return fmt.Errorf("make writable disk: %w", err)
	}
	if err := rootfs.CreateWritable(ctx, fresh, o); err != nil {
		return err
	}
	if err := os.Rename(fresh, path); err != nil {
		return fmt.Errorf("make writable disk: %w", err)
	}
	return nil
}
