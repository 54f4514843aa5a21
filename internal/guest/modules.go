package guest

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// modulesLoad lists the modules of the boot, one absolute path a line, each after those that it needs. The host's
// internal/kernel writes it into the initramfs.
const modulesLoad = "/etc/runcvm/modules.load"

func modulesToLoad() ([]string, error) {
	b, err := os.ReadFile(modulesLoad)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("modules: %w", err)
	}
	return strings.Fields(string(bytes.TrimSpace(b))), nil
}

// loadModule loads one module; one that is loaded already is fine.
func loadModule(path string) error {
	_, err := insertModule(path)
	return err
}

// insertModule loads one module and says whether it was not there before.
func insertModule(path string) (fresh bool, err error) {
	f, err := os.Open(path)
	if err != nil {
		return false, fmt.Errorf("load module: %w", err)
	}
	defer f.Close()
	switch err := unix.FinitModule(int(f.Fd()), "", 0); {
	case errors.Is(err, unix.EEXIST):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("load module %s: %w", path, err)
	}
	return true, nil
}

// isTransport says whether a module brings the way to the host up.
func isTransport(path string) bool { return filepath.Base(path) == "vmw_vsock_virtio_transport.ko" }
