// Command hostileagent is a guest's PID 1 that the e2e suites put in the agent's place: it breaks the contract of package
// guestapi in the way that the parameter hostile=MODE of the kernel's command line says.
package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/runcvm/runcvm/internal/guest"
	"github.com/runcvm/runcvm/internal/guestapi"
	"github.com/runcvm/runcvm/test/hostile"
)

// flood is the mode of the real agent with a console that is written to without end.
const flood = "flood"

func main() {
	name := os.Getenv("hostile")
	m, ok := hostile.Modes[name]
	switch {
	case name == flood:
		go writeWithoutEnd()
	case !ok:
		fmt.Fprintf(os.Stderr, "hostileagent: hostile=%q is no mode\n", name)
		guest.Reboot()
	}
	listen := func(port uint32) (net.Listener, error) {
		l, err := guest.ListenVsock(port)
		behave := map[uint32]func(net.Conn){guestapi.PortAgent: m.Agent, guestapi.PortStream: m.Stream}[port]
		if err != nil || behave == nil {
			return l, err
		}
		return &hijacked{l, behave}, nil
	}
	err := guest.Run(context.Background(), guest.Options{Listen: listen, End: guest.Reboot})
	fmt.Fprintln(os.Stderr, "hostileagent:", err)
	guest.Reboot()
}

// hijacked keeps its connections from the agent. It is a pointer, since ttrpc makes listeners keys of a map.
type hijacked struct {
	net.Listener
	behave func(net.Conn)
}

func (h *hijacked) Accept() (net.Conn, error) {
	for {
		c, err := h.Listener.Accept()
		if err != nil {
			return nil, err
		}
		go h.behave(c)
	}
}

func writeWithoutEnd() {
	line := []byte(strings.Repeat("flood \x1b[31m", 100) + "\n")
	for {
		_, _ = os.Stderr.Write(line)
	}
}
