// Package pid1 is what a test program does as a guest's first process in place of the agent. Start comes first; End is the last
// call, and does not return.
package pid1

import (
	"fmt"
	"log"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Start mounts /dev and loads the modules that internal/kernel has packed for the boot, vsock among them.
func Start() error {
	if err := unix.Mount("dev", "/dev", "devtmpfs", 0, ""); err != nil {
		return fmt.Errorf("mount /dev: %w", err)
	}
	load, err := os.ReadFile("/etc/runcvm/modules.load")
	if err != nil {
		return err
	}
	for name := range strings.FieldsSeq(string(load)) {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil {
			return fmt.Errorf("load module %s: %w", name, err)
		}
		f.Close()
	}
	return nil
}

// End says on the console why the guest ends and reboots, which ends its VMM.
func End(reason error) {
	log.Print("guest ends: ", reason)
	time.Sleep(time.Second) // the console is slow
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	select {}
}
