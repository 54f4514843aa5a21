// Command hostileagent is a guest's PID 1 that the e2e suites put in the agent's place: it breaks the contract of package
// guestapi in the way that the parameter hostile=MODE of the kernel's command line says.
package main

import (
	"context"
	"fmt"
	"net"
	"os"

	"github.com/runcvm/runcvm/internal/guest"
	"github.com/runcvm/runcvm/internal/guestapi"
)

// mode is what the agent does otherwise than the contract has it: behaviours of the two ports. A nil one is the real agent's.
type mode struct {
	agent, stream func(net.Conn)
	beside        func() // runs beside the agent
}

var modes = map[string]mode{
	// Accepts and says nothing.
	"silent": {agent: silent},
	// Bytes that are no protocol at all.
	"garbage": {agent: garbage},
	// An answer to every call of 10 MiB, and after it more bytes than it announced.
	"huge": {agent: huge},
	// Every call succeeds, no stream is ever taken.
	"deaf": {agent: serve(&service{}), stream: silent},
	// The streams are taken and closed, the process ends with 0.
	"early": {agent: serve(&service{}), stream: closeEarly},
	// Megabytes of control characters for a kernel release, an exit code that there is not, every end twice.
	"lies": {agent: serve(&service{release: lies(1 << 20), exitCode: 4_000_000_000}), stream: sendTwice},
	// The process runs, takes every signal, and never ends; neither does the guest.
	"disobedient": {agent: serve(&service{endless: true}), stream: takeAndHold},
	// The real agent, with a console that is written to without end.
	"flood": {beside: flood},
}

func main() {
	m, ok := modes[os.Getenv("hostile")]
	if !ok {
		fmt.Fprintf(os.Stderr, "hostileagent: hostile=%q is no mode\n", os.Getenv("hostile"))
		guest.Reboot()
	}
	if m.beside != nil {
		go m.beside()
	}
	listen := func(port uint32) (net.Listener, error) {
		l, err := guest.ListenVsock(port)
		behave := map[uint32]func(net.Conn){guestapi.PortAgent: m.agent, guestapi.PortStream: m.stream}[port]
		if err != nil || behave == nil {
			return l, err
		}
		return &hijacked{l, behave}, nil
	}
	err := guest.Run(context.Background(), guest.Options{Version: "hostile", Listen: listen, End: guest.Reboot})
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
