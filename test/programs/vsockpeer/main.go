// Command vsockpeer is a guest's PID 1 for the recorded table of vsock behaviour: the guest's end of package peer. The host opens
// one connection to peer.ControlPort and says over it what to do. Beside package peer's words it knows
//
//	stall - TEXT SECONDS	says TEXT on the console, and then nothing else runs on the guest's only processor for so long
package main

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"time"

	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/test/pid1"
	"github.com/runcvm/runcvm/test/vmm/vsock/peer"
)

func main() { pid1.End(run()) }

func run() error {
	if err := pid1.Start(); err != nil {
		return err
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	// Without it a realtime process leaves the others a twentieth of the time.
	if err := os.WriteFile("/proc/sys/kernel/sched_rt_runtime_us", []byte("-1"), 0); err != nil {
		return err
	}
	l, err := vsock.Listen(peer.ControlPort, nil)
	if err != nil {
		return err
	}
	c, err := l.Accept()
	if err != nil {
		return err
	}
	return peer.Serve(c, peer.Guest(), map[string]func([]string) error{"stall": stall})
}

// stall keeps the kernel's own threads from running, those of the vsock driver among them. Interrupts are still taken.
func stall(args []string) error {
	const want = 3
	if len(args) != want {
		return fmt.Errorf("stall: %d arguments", len(args))
	}
	seconds, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	log, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer log.Close()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := schedule(unix.SCHED_FIFO, 1); err != nil {
		return err
	}
	// An emergency, so that the console shows it at any level; printk writes without a thread's help.
	if _, err := fmt.Fprintf(log, "<0>%s\n", args[1]); err != nil {
		return err
	}
	for end := time.Now().Add(time.Duration(seconds) * time.Second); time.Now().Before(end); {
	}
	return schedule(unix.SCHED_NORMAL, 0)
}

func schedule(policy, priority uint32) error {
	return unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: policy, Priority: priority}, 0)
}
