// Command vsockprobe is run in a container by the e2e suites: it dials every low vsock port of the host, a sample of the
// high ones, and the agent's ports by every address that they may have. It begins when its standard input ends, and prints a
// line for each connection that was made: "CID:PORT" and what came from it, which is "closed" when the peer closed it without
// a byte. The last line is "dialled N".
package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"time"

	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/runcvm/runcvm/internal/guestapi"
)

const (
	lowPorts  = 1 << 16
	highPorts = 1000
	// atOnce is how many connections are tried at the same time: one after the other would take minutes under emulation.
	atOnce = 200
	// patience is how long a connection may take to say something. The kernel gives up a connect after 2 s.
	patience = 5 * time.Second
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "vsockprobe:", err)
		os.Exit(1)
	}
}

func run() error {
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	var targets []unix.SockaddrVM
	for port := range uint32(lowPorts) {
		targets = append(targets, unix.SockaddrVM{CID: guestapi.HostCID, Port: port})
	}
	for bit := 16; bit < 32; bit++ {
		targets = append(targets, unix.SockaddrVM{CID: guestapi.HostCID, Port: 1 << bit}, unix.SockaddrVM{CID: guestapi.HostCID, Port: 1<<bit + 1024},
			unix.SockaddrVM{CID: guestapi.HostCID, Port: 1<<bit - 1})
	}
	for range highPorts {
		targets = append(targets, unix.SockaddrVM{CID: guestapi.HostCID, Port: rand.Uint32()})
	}
	// The guest's own addresses: the local one, those that a VMM is likely to give, the hypervisor's, and none.
	for _, cid := range []uint32{unix.VMADDR_CID_HYPERVISOR, unix.VMADDR_CID_LOCAL, 3, 4, unix.VMADDR_CID_ANY} {
		for _, port := range []uint32{guestapi.PortAgent, guestapi.PortStream} {
			targets = append(targets, unix.SockaddrVM{CID: cid, Port: port})
		}
	}
	results := make(chan string)
	free := make(chan struct{}, atOnce)
	go func() {
		for _, t := range targets {
			free <- struct{}{}
			go func() {
				results <- probe(t)
				<-free
			}()
		}
	}()
	for range targets {
		if line := <-results; line != "" {
			fmt.Println(line)
		}
	}
	fmt.Println("dialled", len(targets))
	return nil
}

// probe dials one port, asks as a host would ask an agent, and says what came.
func probe(t unix.SockaddrVM) string {
	name := fmt.Sprintf("%d:%d", t.CID, t.Port)
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return name + " socket: " + err.Error()
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &t); err != nil {
		return ""
	}
	for _, question := range questions() {
		if _, err := unix.Write(fd, question); err != nil {
			break // closed already; what it said before is read below
		}
	}
	limit := unix.NsecToTimeval(patience.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		return name + " timeout: " + err.Error()
	}
	b := make([]byte, 100)
	n, err := unix.Read(fd, b)
	switch {
	case n > 0:
		return fmt.Sprintf("%s %q", name, b[:n])
	case errors.Is(err, unix.EAGAIN):
		return name + " open"
	}
	return name + " closed"
}

// questions are the first words of a host on the agent's two ports. An agent that listens to anybody answers one of them.
func questions() [][]byte {
	call, err := proto.Marshal(&ttrpc.Request{Service: "runcvm.guest.v1.Agent", Method: "SyncClock"})
	if err != nil {
		panic(err)
	}
	header := binary.BigEndian.AppendUint32(nil, uint32(len(call)))
	header = append(header, 0, 0, 0, 1, 1, 0) // stream 1, a request, no flags
	open := append([]byte{1, 0, 0, 0, 2, byte(guestapi.Stdout)}, 'x')
	return [][]byte{append(header, call...), open}
}
