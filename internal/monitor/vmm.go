package monitor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/runcvm/runcvm/internal/config"
	"github.com/runcvm/runcvm/internal/programs"
)

// vmm is the program that runs guests here.
type vmm struct {
	path     string
	emulated bool
}

// chooseVMM is Firecracker where it is installed and /dev/kvm can be opened, or the emulator where the configuration lets
// it stand in.
func chooseVMM(cfg *config.Config) (vmm, error) {
	if cfg.VMM != "" {
		path, err := programs.Find(cfg.VMM)
		return vmm{path: path, emulated: isEmulator(path)}, err
	}
	var why error
	if cfg.Emulation != "always" {
		path, err := programs.Find(cfg.Firecracker)
		if err == nil {
			err = kvmUsable()
		}
		if err == nil {
			return vmm{path: path}, nil
		}
		if cfg.Emulation == "never" {
			return vmm{}, fmt.Errorf("firecracker cannot run, and vmm.emulation is never: %w", err)
		}
		why = err
	}
	path, err := programs.Find(cfg.Emulator)
	if err != nil {
		return vmm{}, errors.Join(err, why)
	}
	return vmm{path: path, emulated: true}, nil
}

// isEmulator goes by the program's name, which is fixed by the project's own installation.
func isEmulator(path string) bool { return filepath.Base(path) == "firecracker-qemu" }

func kvmUsable() error {
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("KVM: %v", err) //nolint:errorlint // only the text: the sentinel would be taken for the container's
	}
	return f.Close()
}
