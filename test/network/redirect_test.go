//go:build e2e

package network_test

import (
	"bytes"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"time"
)

// state is what a binding must leave as it was.
func (l *lab) state(ns string) string {
	// Whether the kernel has looked already for another one with a link-local address is a matter of time.
	addresses := strings.ReplaceAll(l.ip(ns, "-o", "addr"), " tentative", "")
	return l.ip(ns, "-o", "link") + addresses + l.must("tc", "-n", l.prefix+ns, "qdisc") +
		l.exec(ns, "cat", "/proc/sys/net/ipv4/ip_local_port_range", "/proc/sys/net/ipv4/tcp_tw_reuse")
}

func TestAGuestHasWhatTheInterfaceHas(t *testing.T) {
	l := newLab(t)
	box := l.box(2, 1400)
	for _, command := range []string{
		"route add 192.0.2.0/24 dev eth0 scope link", "route add 198.51.100.0/24 via 203.0.113.1 dev eth0 onlink metric 7",
		"neigh add 10.99.0.77 lladdr 02:00:00:00:00:77 dev eth0 nud permanent", "route add blackhole 203.0.113.0/24",
		"link add name spare type veth peer name spare2",
	} {
		l.ip(box, strings.Fields(command)...)
	}
	b := l.bind(box, "0123456789abcdef")
	defer l.in(box, b.Close)
	if len(b.NICs) != 1 || b.NICs[0].HostDevName != "b9fc_01234567" || b.NICs[0].GuestMAC != "02:42:0a:63:00:02" {
		t.Errorf("NICs %+v", b.NICs)
	}
	nic := b.Guest.Interfaces[0]
	if nic.Name != "eth0" || nic.Mtu != 1400 || !nic.Ipv6 || len(nic.Addresses) < 3 {
		t.Errorf("interface %v", nic)
	}
	var routes []string
	for _, r := range b.Guest.Routes {
		routes = append(routes, net.IP(r.Destination).String()+" "+net.IP(r.Gateway).String())
	}
	for _, want := range []string{"<nil> 10.99.0.1", "<nil> fd99::1", "192.0.2.0 <nil>", "198.51.100.0 203.0.113.1", "203.0.113.0 <nil>"} {
		if !strings.Contains("\n"+strings.Join(routes, "\n")+"\n", "\n"+want+"\n") {
			t.Errorf("no route %q in %q", want, routes)
		}
	}
	if len(b.Guest.Neighbours) != 1 || b.Guest.ReservedFrom != 0 || b.Guest.Resolver {
		t.Errorf("neighbours %v, reserved ports from %d, resolver %v", b.Guest.Neighbours, b.Guest.ReservedFrom, b.Guest.Resolver)
	}
}

func TestTheGuestAnswersForTheInterface(t *testing.T) {
	l := newLab(t)
	box := l.box(2, 1500)
	before := l.state(box)
	b := l.bind(box, "0123456789abcdef")
	vm := l.stack(box, b.NICs[0].HostDevName, 2, 1500)
	l.echo(vm, ":7")
	l.echo("net", ":7")
	for _, kind := range []string{"tcp", "udp"} {
		l.expectEcho("net", kind, "10.99.0.2:7")
		l.expectEcho("net", kind, "[fd99::2]:7")
		l.expectEcho(vm, kind, "10.99.0.1:7")
		l.expectEcho(vm, kind, "[fd99::1]:7")
	}
	l.in(box, b.Close)
	if after := l.state(box); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

func TestWhatAnEarlierBindingHasLeftGoes(t *testing.T) {
	l := newLab(t)
	box := l.box(2, 1500)
	before := l.state(box)
	l.bind(box, "fedcba9876543210") // never closed: its monitor was killed
	b := l.bind(box, "0123456789abcdef")
	l.in(box, b.Close)
	if after := l.state(box); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

// As Docker's resolver does: it listens in the namespace at 127.0.0.11 and asks from there.
func TestTheNamespacesOwnConnectionsGetTheirAnswersAndTheGuestTheRest(t *testing.T) {
	l := newLab(t)
	box := l.box(2, 1500)
	l.echo("net", ":7")
	l.echo(box, "127.0.0.11:0")
	before := l.state(box)
	b := l.bind(box, "0123456789abcdef")
	if !b.Guest.Resolver || b.Guest.ReservedFrom == 0 {
		t.Errorf("the resolver was not seen: %v", b.Guest)
	}
	vm := l.stack(box, b.NICs[0].HostDevName, 2, 1500)
	l.echo(vm, ":7")
	for _, kind := range []string{"tcp", "udp"} {
		for _, server := range []string{"10.99.0.1:7", "[fd99::1]:7"} {
			l.expectEcho(box, kind, server)
			l.expectEcho(vm, kind, server)
		}
		l.expectEcho("net", kind, "10.99.0.2:7")
	}
	l.in(box, b.Close)
	if after := l.state(box); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

func TestAGibibyteComesThroughWithOffloads(t *testing.T) {
	l := newLab(t)
	for _, mtu := range []int{1500, 9000} {
		box := l.box(2+mtu/9000, mtu)
		b := l.bind(box, "0123456789abcdef")
		vm := l.stack(box, b.NICs[0].HostDevName, 2+mtu/9000, mtu)
		address := map[int]string{1500: "10.99.0.2:5001", 9000: "[fd99::3]:5001"}[mtu]
		l.transfer("net", vm, address, 512<<20)
		l.in(box, b.Close)
	}
}

// transfer sends so many random bytes over TCP and compares checksums.
func (l *lab) transfer(from, to, address string, size int64) {
	l.t.Helper()
	listener := l.listen(to, address)
	type result struct {
		sum []byte
		err error
	}
	received := make(chan result, 1)
	go func() {
		c, err := listener.Accept()
		if err != nil {
			received <- result{nil, err}
			return
		}
		defer c.Close()
		h := sha256.New()
		_, err = io.Copy(h, c)
		received <- result{h.Sum(nil), err}
	}()
	c := l.dial(from, "tcp", address)
	_ = c.SetDeadline(time.Now().Add(5 * limit))
	h := sha256.New()
	var seed [32]byte
	if n, err := io.CopyN(io.MultiWriter(c, h), rand.NewChaCha8(seed), size); err != nil {
		l.t.Fatalf("after %d bytes: %v", n, err)
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		l.t.Fatal(err)
	}
	if r := <-received; r.err != nil || !bytes.Equal(r.sum, h.Sum(nil)) {
		l.t.Errorf("received %x, %v; sent %x", r.sum, r.err, h.Sum(nil))
	}
}
