package kernel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// InitramfsOptions says what goes into an initramfs beside the kernel's modules.
type InitramfsOptions struct {
	// Agent is the guest agent, a static program for x86-64.
	Agent string
	// Crun is the crun that runs containers in the guest; its shared libraries are packed along. Empty: the one in $PATH.
	Crun string
	// CacheDir is where initramfs images are kept; it is made when it is missing.
	CacheDir string
	// Modules is the kernel's module disk, which the agent looks for; zero where there is none.
	Modules ModuleDisk
}

// Places in the guest; the agent (internal/guest) knows the same.
const (
	guestInit        = "/init"
	guestCrun        = "/bin/crun"
	guestModules     = "/lib/modules"
	guestModulesLoad = "/etc/runcvm/modules.load"
	guestModulesDisk = "/etc/runcvm/modules.disk"
	guestModprobe    = "/bin/modprobe"
)

// initramfsVersion changes whenever the content of an initramfs made from the same files does.
const initramfsVersion = "initramfs 4"

// MaxInitramfs is the size above which an initramfs is refused, in bytes: the VMM copies it into every guest's memory, so it
// is part of every start.
const MaxInitramfs = 20 << 20

// Initramfs returns the path of the initramfs for k: the agent as /init, crun with its libraries, the modules that the boot
// needs and /etc/runcvm/modules.load, which lists them in the order of loading; and how the agent finds the module disk. It is an
// uncompressed newc archive.
func Initramfs(ctx context.Context, k Kernel, o InitramfsOptions) (string, error) {
	path, err := initramfs(ctx, k, o)
	if err != nil {
		return "", fmt.Errorf("initramfs: %w", err)
	}
	return path, nil
}

func initramfs(ctx context.Context, k Kernel, o InitramfsOptions) (string, error) {
	if o.CacheDir == "" {
		return "", errors.New("no cache directory given")
	}
	if o.Crun == "" {
		crun, err := exec.LookPath("crun")
		if err != nil {
			return "", fmt.Errorf("crun is not installed: %w", err)
		}
		o.Crun = crun
	}
	libs, err := libraries(o.Crun)
	if err != nil {
		return "", fmt.Errorf("crun: %w", err)
	}
	inputs := []string{k.Vmlinux, k.ModulesDir, k.ConfigPath, o.Modules.Path, o.Agent, o.Crun}
	for _, l := range libs {
		inputs = append(inputs, l.host)
	}
	key, err := identities(initramfsVersion, inputs...)
	if err != nil {
		return "", err
	}
	dir, err := cached(ctx, o.CacheDir, "initramfs-"+key, func(_ context.Context, dir string) error {
		return packInitramfs(filepath.Join(dir, "initramfs.cpio"), k, o, libs)
	})
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "initramfs.cpio"), nil
}

func packInitramfs(path string, k Kernel, o InitramfsOptions, libs []program) error {
	if interp, needed, err := needs(o.Agent); err != nil {
		return fmt.Errorf("agent %s: %w", o.Agent, err)
	} else if interp != "" || len(needed) > 0 {
		return fmt.Errorf("agent %s is linked dynamically; build it with CGO_ENABLED=0", o.Agent)
	}
	modules, err := bootSet(k)
	if err != nil {
		return err
	}
	return writeSynced(path, func(f *os.File) error {
		c := newCpioWriter(f)
		for _, d := range []string{"/dev", "/proc", "/sys", "/run", "/tmp", "/root"} {
			c.dir(d)
		}
		// Numbers of device nodes: the kernel's Documentation/admin-guide/devices.txt.
		c.entry("/dev/console", modeChar, 5, 1, nil)
		c.entry("/dev/null", modeChar, 1, 3, nil)
		c.entry("/dev/urandom", modeChar, 1, 9, nil)
		var load strings.Builder
		for _, m := range modules {
			name := filepath.Join(guestModules, m.name+".ko")
			c.file(name, m.content)
			load.WriteString(name + "\n")
		}
		c.file(guestModulesLoad, []byte(load.String()))
		if o.Modules.UUID != "" {
			c.file(guestModulesDisk, []byte(o.Modules.UUID+"\n"))
			c.entry(guestModprobe, modeSymlink, 0, 0, []byte(guestInit))
		}
		files := append([]program{{o.Agent, guestInit}, {o.Crun, guestCrun}}, libs...)
		for _, p := range files {
			content, err := readBounded(p.host, MaxInitramfs)
			if err != nil {
				return fmt.Errorf("%s: %w", p.host, err)
			}
			c.exec(p.guest, content)
		}
		if err := c.close(); err != nil {
			return err
		}
		if c.size > MaxInitramfs {
			return fmt.Errorf("%d KiB are above the limit of %d KiB", c.size>>10, MaxInitramfs>>10)
		}
		return nil
	})
}
