package guest

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const sysctlDir = "/proc/sys"

// takeGuestSysctls takes out of a specification's kernel parameters those that crun does not set: it knows a parameter of a
// namespace that the container has. The network's are the guest's, as its network namespace is, and the others no namespace has.
func takeGuestSysctls(sysctls map[string]string) map[string]string {
	// crun's list (validate_sysctl of its linux.c) without those of the network.
	container := []string{"kernel.domainname", "kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall",
		"kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced"}
	taken := map[string]string{}
	for key, value := range sysctls {
		if slices.Contains(container, key) || strings.HasPrefix(key, "fs.mqueue.") {
			continue
		}
		path := key
		if !strings.Contains(key, "/") {
			path = strings.ReplaceAll(key, ".", "/")
		}
		taken[filepath.Clean("/"+path)] = value
		delete(sysctls, key)
	}
	return taken
}

// setSysctls sets kernel parameters of the guest.
func setSysctls(sysctls map[string]string) error {
	if len(sysctls) == 0 {
		return nil
	}
	root, err := unix.Open(sysctlDir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("kernel parameters: %w", err)
	}
	defer unix.Close(root)
	for path, value := range sysctls {
		if err := setSysctl(root, strings.TrimPrefix(path, "/"), value); err != nil {
			return &startError{fmt.Sprintf("sysctl %s=%s: %v", strings.ReplaceAll(path[1:], "/", "."), value, err), exitFailed}
		}
	}
	return nil
}

func setSysctl(root int, path, value string) error {
	fd, err := unix.Openat2(root, path, &unix.OpenHow{
		Flags: unix.O_WRONLY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS})
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	_, err = f.WriteString(value)
	return err
}
