//go:build e2e

package engine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/test/harness"
)

// bootID is where the kernel tells which boot this is.
const bootID = "/proc/sys/kernel/random/boot_id"

// Reboot does to the host what a power failure and a boot do to a machine: all processes are killed, what is not on a disk is gone (/run,
// mounts, cgroups, network devices), and the boot has another id. Docker's daemon is started again, as the init system does that.
func (e *Engine) Reboot() {
	e.t.Helper()
	harness.Eventually(e.t, harness.Soon, func() error {
		all := e.Processes()
		for pid := range all {
			_ = unix.Kill(pid, syscall.SIGKILL) // it may have gone with another
		}
		if len(all) > 0 {
			return fmt.Errorf("processes live on: %v", all)
		}
		return nil
	})
	e.forgetMounts()
	e.forgetFiles()
	if err := e.forgetCgroups(); err != nil {
		e.t.Fatal(err)
	}
	e.mustRunOnHost("sh", "-c", `for i in $(ip -o link | sed 's/^[0-9]*: \([^:@]*\).*/\1/'); do
		case $i in lo|eth0) ;; *) ip link delete "$i" 2>/dev/null || true ;; esac; done`)
	id := filepath.Join(e.Dir, "boot_id")
	if err := os.WriteFile(id, []byte(uuid.NewString()+"\n"), 0o444); err != nil {
		e.t.Fatal(err)
	}
	e.mustRunOnHost("mount", "--bind", id, bootID)
	if e.daemon != nil {
		<-e.daemon.ended
		e.StartDaemon()
	}
}

func (e *Engine) mustRunOnHost(name string, args ...string) {
	e.t.Helper()
	if _, err := e.Host.Run(name, args...); err != nil {
		e.t.Fatal(err)
	}
}

// outsideNamespace is that of the host's neighbour, whom its end does not concern.
const outsideNamespace = "/run/netns/outside"

func (e *Engine) forgetMounts() {
	e.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/mounts", e.Pid))
	if err != nil {
		e.t.Fatal(err)
	}
	var all []string
	for line := range strings.Lines(string(text)) {
		at := strings.Fields(line)[1]
		if at == bootID || strings.HasPrefix(at, e.Dir+"/") || strings.HasPrefix(at, "/run/") && !strings.HasPrefix(outsideNamespace, at) {
			all = append(all, at)
		}
	}
	for _, at := range slices.Backward(all) {
		e.mustRunOnHost("umount", "-l", at)
	}
}

func (e *Engine) forgetFiles() {
	e.t.Helper()
	e.mustRunOnHost("find", "/run", "-mindepth", "1", "-depth",
		"!", "-path", filepath.Dir(outsideNamespace), "!", "-path", outsideNamespace, "-delete")
	var errs []error
	for _, name := range []string{"x", "runcvm/run", "docker.sock", "docker.pid"} {
		errs = append(errs, os.RemoveAll(filepath.Join(e.Dir, name)))
	}
	if err := errors.Join(errs...); err != nil {
		e.t.Fatal(err)
	}
}

func (e *Engine) forgetCgroups() error {
	var errs []error
	for _, path := range slices.Backward(e.Cgroups()) { // parents come before their children
		if err := unix.Rmdir(path); err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("rmdir %s: %w", path, err))
		}
	}
	return errors.Join(errs...)
}

// CleanRunCVM removes what of RunCVM's belongs to nothing, and returns what that says.
func (h *Host) CleanRunCVM() string {
	h.t.Helper()
	out, err := h.RunCVMCommand("gc", "--yes")
	if err != nil {
		h.t.Fatal(err)
	}
	return out
}
