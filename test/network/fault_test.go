//go:build e2e

package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/runcvm/runcvm/test/harness"
	"github.com/runcvm/runcvm/test/network/tapguest"
	"github.com/runcvm/runcvm/test/serve"
)

// neighbours is a host with a container that has a guest and one that is a process's.
type neighbours struct {
	*bed
	bound, other *tapguest.Container
	guest        *tapguest.Guest
}

func newNeighbours(t *testing.T) *neighbours {
	t.Helper()
	n := &neighbours{bed: newBed(t, 1500)}
	n.bound, n.other = n.container(), n.container()
	n.guest = guest(t, n.bound)
	return n
}

// othersAreWell fails the test unless the host and the other container reach each other, both ways, by connections and datagrams.
func (n *neighbours) othersAreWell() {
	n.t.Helper()
	both(n.other, func(other, host netip.Addr) {
		n.t.Helper()
		for range 10 {
			transfer(n.t, n.Host, n.other.Namespace, other, mebibyte)
			transfer(n.t, n.other.Namespace, n.Host, host, mebibyte)
			exchange(n.t, n.Host, n.other.Namespace, other, 1000, 10)
		}
	})
}

// guestIsWell fails the test unless the guest and the host reach each other.
func (n *neighbours) guestIsWell() {
	n.t.Helper()
	both(n.bound, func(guest, host netip.Addr) {
		n.t.Helper()
		transfer(n.t, n.Host, n.guest.Namespace, guest, mebibyte)
		transfer(n.t, n.guest.Namespace, n.Host, host, mebibyte)
	})
}

// setPort sets the host's end of the container's wire up or down.
func (n *neighbours) setPort(state string) {
	n.t.Helper()
	must(n.t, n.Host.Do(func() error { return ip("link", "set", n.bound.Port, state) }))
}

func TestTrafficComesBackAfterALossOfCarrier(t *testing.T) {
	n := newNeighbours(t)
	old := n.echoConnection()
	must(t, old.ask("before"))
	n.setPort("down")
	must(t, n.bound.Do(func() error {
		link, err := netlink.LinkByName("eth0")
		if err == nil && link.Attrs().OperState == netlink.OperUp {
			err = errors.New("the container's interface has its carrier still")
		}
		return err
	}))
	// What is sent meanwhile is lost, and sent again.
	_, err := io.WriteString(old, "during")
	must(t, err)
	n.othersAreWell()
	n.setPort("up")
	must(t, old.answer("during"))
	must(t, old.ask("after"))
	n.guestIsWell()
}

// echoed is a connection whose other end sends back what it gets.
type echoed struct{ net.Conn }

func (e echoed) ask(text string) error {
	if _, err := io.WriteString(e, text); err != nil {
		return err
	}
	return e.answer(text)
}

func (e echoed) answer(text string) error {
	b := make([]byte, len(text))
	if err := e.SetDeadline(time.Now().Add(harness.Soon)); err != nil {
		return err
	}
	if _, err := io.ReadFull(e, b); err != nil {
		return fmt.Errorf("%q is not answered: %w", text, err)
	}
	if string(b) != text {
		return fmt.Errorf("%q is answered by %q", text, b)
	}
	return nil
}

// echoConnection connects the host with the guest.
func (n *neighbours) echoConnection() echoed {
	n.t.Helper()
	l, err := tapguest.Listen(n.guest.Namespace, n.bound.V4)
	must(n.t, err)
	n.t.Cleanup(func() { l.Close() })
	go serve.Connections(l, serve.Echo)
	c, err := tapguest.Dial(context.Background(), n.Host, l.Addr().String())
	must(n.t, err)
	n.t.Cleanup(func() { c.Close() })
	return echoed{c}
}

// A guest that hangs, or is paused, takes no frames: what does not fit into its TAP's queue is lost, and nobody else waits for it.
func TestAFullQueueHoldsNobodyElseUp(t *testing.T) {
	n := newNeighbours(t)
	stream := n.echoConnection()
	must(t, stream.ask("before"))
	nic := n.guest.NICs[0]
	nic.Stop()
	// The stream's own window alone does not fill the queue; datagrams do.
	_, err := io.WriteString(stream, "during")
	must(t, err)
	must(t, n.Host.Do(func() error {
		c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(n.bound.V4, 9)))
		if err != nil {
			return err
		}
		defer c.Close()
		for range 20_000 {
			// An unreachable port cannot be heard of: the guest answers nothing.
			if _, err := c.Write(make([]byte, 1400)); err != nil {
				return err
			}
		}
		return nil
	}))
	if dropped := n.dropped(); dropped == 0 {
		t.Error("no frame was lost: the queue was not full")
	}
	n.othersAreWell()
	nic.Continue()
	must(t, stream.answer("during"))
	must(t, stream.ask("after"))
	n.guestIsWell()
}

// dropped is how many frames the TAP and its queue have not taken.
func (n *neighbours) dropped() (dropped uint64) {
	n.t.Helper()
	must(n.t, n.bound.Do(func() error {
		link, err := netlink.LinkByName(tapName)
		if err != nil {
			return err
		}
		dropped = link.Attrs().Statistics.TxDropped
		qdiscs, err := netlink.QdiscList(link)
		for _, q := range qdiscs {
			if s := q.Attrs().Statistics; s != nil && s.Queue != nil {
				dropped += uint64(s.Queue.Drops)
			}
		}
		return err
	}))
	return dropped
}

const (
	// waiting is how many connections are in TIME_WAIT in the tests below, where they are for a minute.
	waiting = 1000
	// maxClosed is how many are closed for it at most: on a slow machine a connection may use a port again that another waited at.
	maxClosed = 4 * waiting
)

func TestAThousandClosedConnectionsOfAGuestHinderNoNewOne(t *testing.T) {
	n := newNeighbours(t)
	leaveConnections(t, n.guest.Namespace, n.Host, tapguest.Host4)
	leaveConnections(t, n.Host, n.guest.Namespace, n.bound.V4)
	n.guestIsWell()
	n.othersAreWell()
}

// Where Docker's resolver is, the namespace's own connections have some four thousand ports.
func TestAThousandClosedConnectionsOfTheNamespaceHinderNoNewOne(t *testing.T) {
	b := newBed(t, 1500)
	c := b.container()
	listenAsResolver(t, c)
	g := guest(t, c)
	leaveConnections(t, c.Namespace, b.Host, tapguest.Host4)
	transfer(t, c.Namespace, b.Host, tapguest.Host4, mebibyte)
	transfer(t, g.Namespace, b.Host, tapguest.Host4, mebibyte)
	exchange(t, c.Namespace, b.Host, tapguest.Host4, 100, 10)
	exchange(t, g.Namespace, b.Host, tapguest.Host4, 100, 10)
	// Twice as many as there are ports: those that wait are used again.
	for range 8 {
		leaveConnections(t, c.Namespace, b.Host, tapguest.Host4)
	}
	transfer(t, c.Namespace, b.Host, tapguest.Host4, mebibyte)
	transfer(t, g.Namespace, b.Host, tapguest.Host4, mebibyte)
}

// listenAsResolver has a socket where Docker's resolver has it.
func listenAsResolver(t *testing.T, c *tapguest.Container) {
	t.Helper()
	socket, err := c.ListenAsResolver()
	must(t, err)
	t.Cleanup(func() { socket.Close() })
}

// leaveConnections opens and closes connections, the client first, and fails the test unless they are in TIME_WAIT.
func leaveConnections(t *testing.T, from, to *tapguest.Namespace, address netip.Addr) {
	t.Helper()
	l, err := tapguest.Listen(to, address)
	must(t, err)
	defer l.Close()
	go serve.Connections(l, serve.Discard)
	must(t, from.Do(func() error {
		for i := range maxClosed {
			if i >= waiting && i%50 == 0 && areWaiting() == nil {
				return nil
			}
			c, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				return fmt.Errorf("connection %d: %w", i, err)
			}
			if err := c.(*net.TCPConn).CloseWrite(); err != nil {
				return err
			}
			if _, err := io.Copy(io.Discard, c); err != nil {
				return err
			}
			c.Close()
		}
		return nil
	}))
	// The last of them are there in a moment.
	harness.Eventually(t, harness.Soon, func() error { return from.Do(areWaiting) })
}

// areWaiting looks for the connections that leaveConnections has left in the thread's namespace.
func areWaiting() error {
	b, err := os.ReadFile("/proc/thread-self/net/tcp")
	if err != nil {
		return err
	}
	found := 0
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 3 && f[3] == "06" { // TCP_TIME_WAIT of linux/tcp_states.h
			found++
		}
	}
	if found < waiting {
		return fmt.Errorf("%d connections are in TIME_WAIT", found)
	}
	return nil
}
