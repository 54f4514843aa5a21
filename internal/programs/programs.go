// Package programs finds the programs that RunCVM runs. Its functions are legal at any time.
package programs

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Find resolves a name: a path as it is, otherwise beside the command, then by $PATH.
func Find(name string) (string, error) {
	if strings.Contains(name, "/") {
		path, err := filepath.Abs(name)
		if err == nil {
			_, err = os.Stat(path)
		}
		if err != nil {
			//nolint:errorlint // the sentinel would be taken for the container's
			return "", fmt.Errorf("program %s cannot be used: %v", name, err)
		}
		return path, nil
	}
	if self, err := os.Executable(); err == nil {
		path := filepath.Join(filepath.Dir(self), name)
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("program %s is neither beside runcvm nor in $PATH", name)
	}
	return path, nil
}

// Agent is the agent's path: the configured one, or beside the command, or where "make install" puts it.
func Agent(configured string) (string, error) {
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
