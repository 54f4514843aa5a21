//go:build e2e

package harness

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// settle is how long the kernel may take to end what a killed pid namespace held.
const settle = 10 * time.Second

// checkLeaks fails the test if anything of a container is left on the host: processes, mounts, loop devices, sockets, files.
func (h *Host) checkLeaks() {
	h.t.Helper()
	if h.t.Failed() {
		h.removeAll() // the test's own fault is what counts; the next test begins clean
		return
	}
	Eventually(h.t, settle, h.leaks)
}

// leaks names everything of the host's directories that is left.
func (h *Host) leaks() error { return errors.Join(h.processes(), h.mounts(), h.files()) }

// removeAll ends what a failed test has left, and keeps what it says.
func (h *Host) removeAll() {
	r := h.Run("ps", "-aq")
	for id := range strings.FieldsSeq(r.Stdout) {
		for _, source := range []string{"monitor", "vmm", "console"} {
			const most = 4 << 10
			log := h.Run("logs", "--source", source, id).Stdout
			h.t.Logf("%s's %s log ends in:\n%s", id, source, log[max(0, len(log)-most):])
		}
		h.Run("rm", "-f", id)
	}
}

// processes looks for processes that name the host's directories in their command line, environment, working directory or
// an open file.
func (h *Host) processes() error {
	all, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range all {
		if strings.Trim(p.Name(), "0123456789") != "" || p.Name() == fmt.Sprint(os.Getpid()) {
			continue
		}
		dir := filepath.Join("/proc", p.Name())
		cmdline, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		environ, _ := os.ReadFile(filepath.Join(dir, "environ"))
		where := []string{string(cmdline), string(environ)}
		links, _ := filepath.Glob(filepath.Join(dir, "fd", "*"))
		for _, link := range append(links, filepath.Join(dir, "cwd")) {
			target, _ := os.Readlink(link)
			where = append(where, target)
		}
		if slices.ContainsFunc(where, h.names) {
			errs = append(errs, fmt.Errorf("process %s is left: %q", p.Name(), bytes.ReplaceAll(cmdline, []byte{0}, []byte(" "))))
		}
	}
	return errors.Join(errs...)
}

// names says whether a text names one of the host's directories.
func (h *Host) names(text string) bool {
	return strings.Contains(text, h.DataDir) || strings.Contains(text, h.RunDir)
}

func (h *Host) mounts() error {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	var errs []error
	for line := range strings.Lines(string(b)) {
		if h.names(line) {
			errs = append(errs, fmt.Errorf("a mount is left: %s", strings.TrimSpace(line)))
		}
	}
	loops, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, f := range loops {
		if b, _ := os.ReadFile(f); h.names(string(b)) {
			errs = append(errs, fmt.Errorf("%s is left: %s", f, b))
		}
	}
	return errors.Join(errs...)
}

// files looks into the directories that are empty without containers, and for unfinished files in the caches.
func (h *Host) files() error {
	var errs []error
	for _, pattern := range []string{
		filepath.Join(h.RunDir, "*"), filepath.Join(h.DataDir, "containers", "*"), filepath.Join(h.DataDir, "containers", ".*"),
		filepath.Join(h.DataDir, "names", "*"), filepath.Join(h.DataDir, "images", "tmp", "*"),
		filepath.Join(h.DataDir, "disks", "build-*"), filepath.Join(h.DataDir, "disks", "private-*"),
		filepath.Join(h.DataDir, "kernels", ".tmp-*"),
	} {
		left, err := filepath.Glob(pattern)
		if err != nil {
			errs = append(errs, err)
		}
		for _, f := range left {
			errs = append(errs, fmt.Errorf("%s is left", f))
		}
	}
	return errors.Join(errs...)
}
