package guest

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Places in the guest.
const (
	runDir    = "/run/runcvm"
	cgroupDir = "/sys/fs/cgroup"
	// cgroupParent holds a cgroup for each container; cgroupsPath of the container's specification is below it.
	cgroupParent = "/runcvm"
)

// moveRoot moves a bind mount of the initramfs over it. The initramfs itself can be no argument of pivot_root(2), which crun
// needs for every container.
func moveRoot() error {
	const dir = "/root"
	if err := unix.Mount("/", dir, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind the root: %w", err)
	}
	if err := unix.Chdir(dir); err != nil {
		return fmt.Errorf("enter the root: %w", err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("change the root: %w", err)
	}
	return unix.Chdir("/")
}

type mount struct {
	source, target, fstype string
	flags                  uintptr
	options                string
}

const noSuidExecDev = unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NODEV

var guestMounts = []mount{
	{"proc", "/proc", "proc", noSuidExecDev, ""},
	{"sysfs", "/sys", "sysfs", noSuidExecDev, ""},
	{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=0755"},
	{"devpts", "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=0620,gid=5,ptmxmode=0666"},
	{"tmpfs", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755"},
	{"cgroup2", cgroupDir, "cgroup2", noSuidExecDev, ""},
}

// prepareGuest does what must be done before the first container, and loads the modules that are left.
func prepareGuest(modules []string) error {
	for _, m := range guestMounts {
		if err := mountAt(m); err != nil {
			return err
		}
	}
	if err := setOOMScore(oomProtected); err != nil {
		return err
	}
	for _, m := range modules {
		if err := loadModule(m); err != nil {
			return err
		}
	}
	if err := takeModprobe(); err != nil {
		return err
	}
	return prepareCgroups()
}

// Values of oom_score_adj (proc(5)). The guest without its agent is lost, so everything else is killed first when memory runs out.
const (
	oomProtected = "-1000"
	oomDefault   = "0"
)

func setOOMScore(adj string) error {
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte(adj), 0o644); err != nil {
		return fmt.Errorf("protect the agent from running out of memory: %w", err)
	}
	return nil
}

// prepareCgroups makes the containers' parent and passes on every controller that the kernel has.
func prepareCgroups() error {
	parent := filepath.Join(cgroupDir, cgroupParent)
	if err := os.Mkdir(parent, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("cgroups: %w", err)
	}
	b, err := os.ReadFile(filepath.Join(cgroupDir, "cgroup.controllers"))
	if err != nil {
		return fmt.Errorf("cgroups: %w", err)
	}
	for _, dir := range []string{cgroupDir, parent} {
		file := filepath.Join(dir, "cgroup.subtree_control")
		controllers := strings.Fields(string(b))
		all := "+" + strings.Join(controllers, " +")
		if os.WriteFile(file, []byte(all), 0o644) == nil {
			continue
		}
		// One that is refused refuses all of them; crun names the one that a container lacks.
		for _, c := range controllers {
			if err := os.WriteFile(file, []byte("+"+c), 0o644); err != nil {
				slog.Warn("a cgroup controller cannot be passed on", "controller", c, "error", err)
			}
		}
	}
	return limitContainers(parent)
}
