package main

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/google/uuid"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/runcvm/runcvm/internal/image"
	"github.com/runcvm/runcvm/internal/kernel"
	"github.com/runcvm/runcvm/internal/oci"
	"github.com/runcvm/runcvm/internal/rootfs"
)

//go:embed baseline/init.c
var initSource []byte

// baseline boots the idle guest's configuration with another init.
type baseline struct {
	b         *bench
	dir       string
	initramfs string
	disk      *rootfs.Disk
	spec      []byte
	// args are added to the kernel's command line.
	args string
}

// newBaseline prepares a baseline in a directory of this name, whose container runs the command.
func newBaseline(ctx context.Context, b *bench, name string, command ...string) (_ *baseline, err error) {
	s := &baseline{b: b, dir: filepath.Join(b.dir, name)}
	if err := os.Mkdir(s.dir, 0o700); err != nil {
		return nil, err
	}
	if err := s.makeInitramfs(ctx); err != nil {
		return nil, err
	}
	store, err := image.Open(filepath.Join(b.dataDir(), "images"))
	if err != nil {
		return nil, err
	}
	img, err := store.Get(ctx, imageName)
	if err != nil {
		return nil, err
	}
	cache, err := rootfs.OpenCache(filepath.Join(b.dataDir(), "disks"))
	if err != nil {
		return nil, err
	}
	if s.disk, err = cache.ImageDisk(ctx, store, img, rootfs.DiskOptions{Cache: true}); err != nil {
		return nil, err
	}
	c, err := oci.Resolve(img.Config.Config, oci.Options{Cmd: command, Hostname: "baseline"})
	if err != nil {
		return nil, err
	}
	spec := oci.Spec(c)
	// What the agent fills in.
	spec.Process.Args = c.Args
	spec.Process.User = specs.User{}
	spec.Root.Path = "/run/b/rootfs"
	spec.Linux.Sysctl = nil // the agent sets them, since they are the whole guest's
	spec.Linux.CgroupsPath = "/runcvm/baseline"
	if s.spec, err = json.Marshal(spec); err != nil {
		return nil, err
	}
	return s, nil
}

// makeInitramfs packs what runcvm packs, with the baseline's init in place of the agent.
func (s *baseline) makeInitramfs(ctx context.Context) error {
	source, init := filepath.Join(s.dir, "init.c"), filepath.Join(s.dir, "init")
	if err := os.WriteFile(source, initSource, 0o600); err != nil {
		return err
	}
	gcc := exec.CommandContext(ctx, "gcc", "-static", "-O2", "-s", "-Wall", "-Werror", "-o", init, source)
	if out, err := gcc.CombinedOutput(); err != nil {
		return fmt.Errorf("compile the baseline's init: %w: %s", err, out)
	}
	// A kernel that is unpacked in the cache is found by its source again.
	k, err := kernel.Find(ctx, kernel.Options{Roots: []string{"/usr/local/lib/runcvm/kernel", "/"},
		CacheDir: filepath.Join(s.b.dataDir(), "kernels")})
	if err != nil {
		return err
	}
	used, err := s.b.config.text("boot-source", "kernel_image_path")
	if err != nil {
		return err
	}
	if used != k.Vmlinux {
		return fmt.Errorf("runcvm boots %s, the baseline would boot %s", used, k.Vmlinux)
	}
	crun, err := exec.LookPath("crun")
	if err != nil {
		return err
	}
	s.initramfs, err = kernel.Initramfs(ctx, k, kernel.InitramfsOptions{Agent: init, Crun: crun, CacheDir: filepath.Join(s.dir, "kernels")})
	return err
}

// configure writes the configuration file: the idle guest's with another initramfs, writable disk and vsock.
func (s *baseline) configure(disk string) (string, error) {
	drives, err := s.b.drives()
	if err != nil {
		return "", err
	}
	if drives["image"]["path_on_host"] != s.disk.Path {
		return "", fmt.Errorf("runcvm's image disk is %v, the baseline's %s", drives["image"]["path_on_host"], s.disk.Path)
	}
	c := maps.Clone(s.b.config)
	boot, _ := c["boot-source"].(map[string]any)
	boot = maps.Clone(boot)
	boot["initrd_path"] = s.initramfs
	if s.args != "" {
		boot["boot_args"] = fmt.Sprint(boot["boot_args"], " ", s.args)
	}
	own := maps.Clone(drives["rootfs"])
	own["path_on_host"] = disk
	c["boot-source"], c["drives"] = boot, []any{drives["image"], own, drives["modules"]}
	text, err := json.Marshal(c)
	if err != nil {
		return "", err
	}
	path := filepath.Join(s.dir, "vm.json")
	return path, os.WriteFile(path, text, 0o600)
}

// run boots once and returns the time from the VMM's exec to its exit.
func (s *baseline) run(ctx context.Context) (time.Duration, error) {
	_, took, err := s.boot(ctx)
	return took, err
}

// boot boots once and returns the guest's console, too.
func (s *baseline) boot(ctx context.Context) (_ string, _ time.Duration, err error) {
	disk := filepath.Join(s.dir, "rootfs.ext4")
	err = rootfs.CreateWritable(ctx, disk, rootfs.WritableOptions{Size: s.b.diskSize, UUID: uuid.NewString(), Entrypoint: []string{"true"},
		Config: s.spec})
	if err != nil {
		return "", 0, err
	}
	defer func() { err = errors.Join(err, os.Remove(disk)) }()
	config, err := s.configure(disk)
	if err != nil {
		return "", 0, err
	}
	cmd := exec.CommandContext(ctx, s.b.vmm, "--id", "baseline", "--no-api", "--config-file", config)
	cmd.Dir = s.dir
	var console, log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &console, &log
	start := time.Now()
	err = cmd.Run()
	took := time.Since(start)
	_ = os.Remove(filepath.Join(s.dir, "vsock.sock")) // Firecracker leaves it, and then finds it in its way
	if err == nil && !bytes.Contains(console.Bytes(), []byte("baseline: exit 0")) {
		err = errors.New("the guest did not run its container")
	}
	if err != nil {
		return "", 0, fmt.Errorf("%s: %w\n%s\n%s", filepath.Base(s.b.vmm), err, console.Bytes(), log.Bytes())
	}
	return console.String(), took, nil
}
