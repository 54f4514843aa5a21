//go:build e2e

package engine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/runcvm/runcvm/test/harness"
)

// Etc writes a file of the host's own /etc.
func (h *Host) Etc(name, text string) {
	h.t.Helper()
	// What the mounted overlay's upper directory is given behind its back need not appear there.
	path := filepath.Join(fmt.Sprintf("/proc/%d/root/etc", h.Pid), name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
		h.t.Fatal(err)
	}
}

// RunCVMDir is where RunCVM keeps what it has on this host.
func (h *Host) RunCVMDir() string { return filepath.Join(h.Dir, "runcvm") }

// ConfigureRunCVM writes the host's settings of RunCVM, with further tables.
func (h *Host) ConfigureRunCVM(further string) {
	h.t.Helper()
	vmm := os.Getenv("RUNCVM_VMM")
	if vmm == "" {
		vmm = filepath.Join(harness.Bin(h.t), "firecracker-qemu")
	}
	// Many emulated guests that start at once wait for each other.
	config := fmt.Sprintf("data_dir = %q\nrun_dir = %q\nboot_timeout = \"10m\"\n[vmm]\npath = %q\n",
		filepath.Join(h.RunCVMDir(), "data"), filepath.Join(h.RunCVMDir(), "run"), vmm)
	if kernel := os.Getenv("RUNCVM_KERNEL"); kernel != "" {
		config += fmt.Sprintf("[kernel]\npath = %q\n", kernel)
	}
	h.Etc("runcvm/config.toml", config+further)
}

// RunCVMCommand runs the people's command on the host.
func (h *Host) RunCVMCommand(args ...string) (string, error) {
	return h.Run(filepath.Join(harness.Bin(h.t), "runcvm"), args...)
}
