package monitor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"sync"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/runcvm/runcvm/internal/cleanup"
	"github.com/runcvm/runcvm/internal/container"
	"github.com/runcvm/runcvm/internal/image"
	"github.com/runcvm/runcvm/internal/kernel"
	"github.com/runcvm/runcvm/internal/oci"
	"github.com/runcvm/runcvm/internal/rootfs"
	"github.com/runcvm/runcvm/internal/sandbox"
)

// prepared is what a boot needs.
type prepared struct {
	vmm        vmm
	sandbox    *sandbox.Sandbox
	image      image.Image
	spec       oci.Container
	disk       *rootfs.Disk
	rootfsUUID string
	rootfsPath string
	kernel     string
	initramfs  string
}

func (p *prepared) files() sandbox.BootFiles {
	return sandbox.BootFiles{Kernel: p.kernel, Initramfs: p.initramfs, Drives: []sandbox.Drive{
		{ID: "image", Path: p.disk.Path, ReadOnly: true},
		{ID: "rootfs", Path: p.rootfsPath},
	}}
}

// kernelRoots are where a guest kernel is looked for: the one that set-up unpacks, then the host's own.
var kernelRoots = []string{"/usr/local/lib/runcvm/kernel", "/"}

const (
	// guestOverhead is what a guest's kernel and agent need beside the container's limit, in bytes.
	guestOverhead = 128 << 20
	mebibyte      = 1 << 20
)

// prepare makes the disks and runs the VMM, both at once, and leaves the sandbox ready to boot.
func (m *monitor) prepare(ctx context.Context, undo *cleanup.Stack) error {
	var err error
	if m.prep.vmm, err = chooseVMM(m.cfg); err != nil {
		return err
	}
	if m.prep.vmm.emulated {
		m.logger.Info("the guest is emulated: no security boundary", "vmm", m.prep.vmm.path)
	}
	var mu sync.Mutex // undo's
	add := func(step func() error) {
		mu.Lock()
		defer mu.Unlock()
		undo.AddFunc(step)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return m.prepareDisks(ctx, add) })
	group.Go(func() error { return m.prepareKernel(ctx) })
	group.Go(func() (err error) {
		if m.prep.sandbox, err = sandbox.Launch(ctx, m.sandboxConfig()); err != nil {
			return err
		}
		add(func() error { m.prep.sandbox.Kill(); return nil })
		return nil
	})
	return group.Wait()
}

func (m *monitor) sandboxConfig() sandbox.Config {
	memory, cpus := m.cfg.Memory, m.cfg.CPUs
	if m.req.Options.Memory > 0 {
		memory = m.req.Options.Memory + guestOverhead
	}
	if m.req.Options.CPUs > 0 {
		cpus = int(math.Ceil(m.req.Options.CPUs))
	}
	hostname := m.req.Options.Hostname
	if hostname == "" {
		hostname = container.Short(m.req.ID)
	}
	return sandbox.Config{
		ID: m.req.ID, VMM: m.prep.vmm.path, Dir: m.files.RunDir, Vsock: container.VsockSocket,
		ConsoleLog: m.path(container.ConsoleLog), VMMLog: m.path(container.VMMLog),
		KernelArgs: m.cfg.KernelArgs, MemoryMiB: (memory + mebibyte - 1) / mebibyte, VCPUs: cpus,
		BootTimeout: m.cfg.BootTimeout, Hostname: hostname, LogLevel: m.cfg.LogLevel,
		Log: m.logger, Timeline: m.timeline,
	}
}

func (m *monitor) prepareKernel(ctx context.Context) error {
	defer m.timeline.Phase("kernel-files")()
	cache := filepath.Join(m.cfg.DataDir, "kernels")
	k, err := kernel.Find(ctx, kernel.Options{Path: m.cfg.Kernel, Roots: kernelRoots, CacheDir: cache})
	if err != nil {
		return err
	}
	agent, err := findAgent(m.cfg.Agent)
	if err != nil {
		return err
	}
	crun, err := findProgram(m.cfg.Crun)
	if err != nil {
		return fmt.Errorf("crun, which runs containers in the guest: %w", err)
	}
	m.prep.kernel = k.Vmlinux
	m.prep.initramfs, err = kernel.Initramfs(ctx, k, kernel.InitramfsOptions{Agent: agent, Crun: crun, CacheDir: cache})
	return err
}

func (m *monitor) prepareDisks(ctx context.Context, undo func(func() error)) error {
	finished := m.timeline.Phase("image")
	store, err := image.Open(filepath.Join(m.cfg.DataDir, "images"))
	if err != nil {
		return err
	}
	m.prep.image, err = store.Get(ctx, m.req.Image)
	finished()
	if err != nil {
		return err
	}
	if m.prep.spec, err = oci.Resolve(m.prep.image.Config.Config, m.req.Options); err != nil {
		return fmt.Errorf("image %s: %w", m.req.Image, err)
	}
	if m.prep.spec.Hostname == "" {
		m.prep.spec.Hostname = container.Short(m.req.ID)
	}
	if err := m.containerSettings(); err != nil {
		return err
	}
	if err := m.imageDisk(ctx, store); err != nil {
		return err
	}
	undo(m.prep.disk.Close)
	return m.writableDisk(ctx)
}

func (m *monitor) imageDisk(ctx context.Context, store *image.Store) error {
	defer m.timeline.Phase("image-disk")()
	cache, err := rootfs.OpenCache(filepath.Join(m.cfg.DataDir, "disks"))
	if err != nil {
		return err
	}
	m.prep.disk, err = cache.ImageDisk(ctx, store, m.prep.image, rootfs.DiskOptions{CacheKey: m.cfg.CacheKey, Cache: m.cfg.CacheActive})
	return err
}

// containerSettings takes the two switches of the cache from the container's environment, and nothing else: an image
// must not name a path of the host or widen a right.
func (m *monitor) containerSettings() error {
	for key, name := range map[string]string{"disk.cache": "ROOTFS_CACHE_ACTIVE", "disk.cache_key": "RUNCVM_CACHE_KEY"} {
		v, ok := m.prep.spec.Lookup(name)
		if !ok {
			continue
		}
		if err := m.cfg.Set(key, v, "the container's $"+name); err != nil {
			return err
		}
	}
	return nil
}

func (m *monitor) writableDisk(ctx context.Context) error {
	defer m.timeline.Phase("rootfs-disk")()
	spec, err := json.Marshal(oci.Spec(m.prep.spec))
	if err != nil {
		return fmt.Errorf("write the container's specification: %w", err)
	}
	m.prep.rootfsUUID, m.prep.rootfsPath = uuid.NewString(), m.path(container.DiskFile)
	return rootfs.CreateWritable(ctx, m.prep.rootfsPath, rootfs.WritableOptions{
		Size: m.cfg.DiskSize, UUID: m.prep.rootfsUUID, Entrypoint: m.prep.spec.Args, Config: spec,
	})
}

// findAgent is the agent's path: the configured one, or beside the command, or where "make install" puts it.
func findAgent(configured string) (string, error) {
	if configured != "" {
		return configured, nil
	}
	const name = "runcvm-guest"
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find the guest's agent: %w", err)
	}
	for _, dir := range []string{filepath.Dir(self), "/usr/local/lib/runcvm", "/usr/lib/runcvm"} {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", errors.New("the guest's agent, runcvm-guest, is neither beside runcvm nor in /usr/local/lib/runcvm; " +
		"install it, or set guest.agent")
}
