// Command runcvm-guest is the guest agent, PID 1 of every microVM. It has no flags: the host sets it up over vsock. Under the name
// of a container's init it is that instead, and as modprobe what the guest's kernel runs for a module.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/runcvm/runcvm/internal/guest"
)

func main() {
	switch {
	case guest.IsContainerInit(os.Args):
		os.Exit(guest.ContainerInit(os.Args))
	case guest.IsModprobe(os.Args):
		os.Exit(guest.Modprobe(os.Args))
	}
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "runcvm-guest runs as PID 1 of a microVM and nowhere else")
		os.Exit(1)
	}
	err := guest.Run(context.Background(), guest.Options{Listen: guest.ListenVsock, End: guest.Reboot})
	fmt.Fprintln(os.Stderr, "runcvm-guest:", err)
	guest.Reboot()
}
