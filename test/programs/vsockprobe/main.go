// Command vsockprobe is run in a container by the e2e suites: it dials every low vsock port of the host, a sample of the high
// ones, and the agent's ports by every address that they may have. Its argument says how many low ports. It begins when its
// standard input ends, and prints a line for each connection that was made: "CID:PORT" and what came from it, which is "closed"
// when the peer closed it without a byte. The last line is "dialled N".
package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/runcvm/runcvm/internal/guestapi"
)

const (
	highPorts = 1000
	// atOnce is how many connections are tried at the same time, by one thread: where the whole machine is emulated, every
	// switch and every interrupt counts.
	atOnce = 256
	// connecting is longer than the 2 s after which the kernel gives up a connect.
	connecting = 10 * time.Second
	// patience is how long a connection may take to say something.
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
	if len(os.Args) != 2 {
		return errors.New("usage: vsockprobe LOW-PORTS")
	}
	lowPorts, err := strconv.ParseUint(os.Args[1], 10, 32)
	if err != nil {
		return err
	}
	var targets []unix.SockaddrVM
	for port := range uint32(lowPorts) {
		targets = append(targets, unix.SockaddrVM{CID: guestapi.HostCID, Port: port})
	}
	for bit := 16; bit < 32; bit++ {
		targets = append(targets, unix.SockaddrVM{CID: guestapi.HostCID, Port: 1 << bit},
			unix.SockaddrVM{CID: guestapi.HostCID, Port: 1<<bit + 1024}, unix.SockaddrVM{CID: guestapi.HostCID, Port: 1<<bit - 1})
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
	for batch := range slices.Chunk(targets, atOnce) {
		if err := probe(batch); err != nil {
			return err
		}
	}
	fmt.Println("dialled", len(targets))
	return nil
}

// probe dials some ports at once.
func probe(targets []unix.SockaddrVM) error {
	dials := make([]unix.PollFd, 0, len(targets))
	names := map[int32]string{}
	for _, t := range targets {
		fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return fmt.Errorf("make a socket: %w", err)
		}
		defer unix.Close(fd)
		if err := unix.Connect(fd, &t); err != nil && !errors.Is(err, unix.EINPROGRESS) {
			continue // refused at once, as what is no address is
		}
		names[int32(fd)] = fmt.Sprintf("%d:%d", t.CID, t.Port)
		dials = append(dials, unix.PollFd{Fd: int32(fd), Events: unix.POLLOUT})
	}
	for deadline := time.Now().Add(connecting); len(dials) > 0; {
		left := time.Until(deadline)
		if left < 0 {
			return fmt.Errorf("%s and %d more are neither refused nor made", names[dials[0].Fd], len(dials)-1)
		}
		if _, err := unix.Poll(dials, int(left.Milliseconds())); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for connections: %w", err)
		}
		pending := dials[:0]
		for _, d := range dials {
			if d.Revents == 0 {
				pending = append(pending, d)
			} else if refused, err := unix.GetsockoptInt(int(d.Fd), unix.SOL_SOCKET, unix.SO_ERROR); err != nil {
				return fmt.Errorf("see how a connection went: %w", err)
			} else if refused == 0 {
				fmt.Println(names[d.Fd], ask(int(d.Fd)))
			}
		}
		dials = pending
	}
	return nil
}

// ask says on a connection what a host says to an agent, and returns what comes.
func ask(fd int) string {
	if err := unix.SetNonblock(fd, false); err != nil {
		return err.Error()
	}
	for _, question := range questions() {
		if _, err := unix.Write(fd, question); err != nil {
			break // closed already; what it said before is read below
		}
	}
	limit := unix.NsecToTimeval(patience.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		return err.Error()
	}
	b := make([]byte, 100)
	n, err := unix.Read(fd, b)
	switch {
	case n > 0:
		return fmt.Sprintf("%q", b[:n])
	case errors.Is(err, unix.EAGAIN):
		return "open"
	}
	return "closed"
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
