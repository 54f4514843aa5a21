//go:build e2e

package harness

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
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
	Eventually(h.t, settle, func() error {
		return errors.Join(h.processes(), h.mounts(), h.files())
	})
}

// removeAll ends what a failed test has left.
func (h *Host) removeAll() {
	if r := h.Run("ps", "-aq"); r.Code == 0 {
		for id := range strings.FieldsSeq(r.Stdout) {
			h.Run("rm", "-f", id)
		}
	}
}

// processes looks for processes that name the host's directories in their command line, environment, or working directory.
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
		cwd, _ := os.Readlink(filepath.Join(dir, "cwd"))
		for _, where := range []string{string(cmdline), string(environ), cwd} {
			if strings.Contains(where, h.DataDir) || strings.Contains(where, h.RunDir) {
				errs = append(errs, fmt.Errorf("process %s is left: %q", p.Name(), bytes.ReplaceAll(cmdline, []byte{0}, []byte(" "))))
				break
			}
		}
	}
	return errors.Join(errs...)
}

func (h *Host) mounts() error {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	var errs []error
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, h.DataDir) || strings.Contains(line, h.RunDir) {
			errs = append(errs, fmt.Errorf("a mount is left: %s", strings.TrimSpace(line)))
		}
	}
	loops, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, f := range loops {
		if b, _ := os.ReadFile(f); strings.Contains(string(b), h.DataDir) {
			errs = append(errs, fmt.Errorf("%s is left: %s", f, b))
		}
	}
	return errors.Join(errs...)
}

// files looks into the directories that are empty without containers, and for unfinished files in the caches.
func (h *Host) files() error {
	var errs []error
	for _, dir := range []string{h.RunDir, filepath.Join(h.DataDir, "containers"), filepath.Join(h.DataDir, "names")} {
		left, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
		for _, f := range left {
			errs = append(errs, fmt.Errorf("%s is left", filepath.Join(dir, f.Name())))
		}
	}
	return errors.Join(errs...)
}
