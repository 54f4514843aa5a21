//go:build e2e

// Package network tests internal/network without any VMM: package tapguest plays the guests. Each test has a network as Docker makes one,
// in namespaces of its own: a host with a bridge, and containers with an interface on it.
package network

import (
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"

	"github.com/runcvm/runcvm/internal/network"
	"github.com/runcvm/runcvm/test/harness"
	"github.com/runcvm/runcvm/test/network/tapguest"
)

const (
	mebibyte = 1 << 20
	gibibyte = 1 << 30

	bridge = "br0"
	// containerID is of the container that has a guest.
	containerID = "0123456789abcdef"
	tapName     = "b9fc_01234567"
)

// The host's addresses on the bridge.
var (
	host4 = netip.MustParseAddr("10.77.0.1")
	host6 = netip.MustParseAddr("fd77::1")
)

// bed is a host's namespace with a bridge.
type bed struct {
	t    *testing.T
	host *tapguest.Namespace
	mtu  int
	// containers are how many there are.
	containers int
}

func newBed(t *testing.T, mtu int) *bed {
	t.Helper()
	b := &bed{t: t, host: newNamespace(t), mtu: mtu}
	must(t, b.host.Do(func() error {
		for _, args := range [][]string{
			{"link", "add", bridge, "mtu", fmt.Sprint(mtu), "type", "bridge"},
			{"addr", "add", host4.String() + "/24", "dev", bridge},
			{"addr", "add", host6.String() + "/64", "dev", bridge, "nodad"},
			{"link", "set", bridge, "up"},
		} {
			if err := ip(args...); err != nil {
				return err
			}
		}
		return nil
	}))
	return b
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newNamespace(t *testing.T) *tapguest.Namespace {
	t.Helper()
	n, err := tapguest.NewNamespace()
	must(t, err)
	t.Cleanup(func() { n.Close() })
	return n
}

// ip runs ip(8) in the calling thread's namespace.
func ip(args ...string) error { return run("ip", args...) }

func run(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

// container is a namespace with an interface on the bridge.
type container struct {
	*tapguest.Namespace
	// port is the other end of its eth0, on the bridge.
	port   string
	v4, v6 netip.Addr
}

// container adds a container.
func (b *bed) container() *container {
	b.t.Helper()
	b.containers++
	c := &container{Namespace: newNamespace(b.t), port: fmt.Sprintf("port%d", b.containers)}
	c.v4, c.v6 = host4, host6
	for range b.containers {
		c.v4, c.v6 = c.v4.Next(), c.v6.Next()
	}
	must(b.t, tapguest.Wire(b.mtu, tapguest.Port{Namespace: b.host, Name: c.port}, tapguest.Port{
		Namespace: c.Namespace, Name: "eth0", Addresses: []netip.Prefix{netip.PrefixFrom(c.v4, 24), netip.PrefixFrom(c.v6, 64)},
		Gateways: []netip.Addr{host4, host6},
	}))
	must(b.t, b.host.Do(func() error { return ip("link", "set", c.port, "master", bridge) }))
	return c
}

// bind binds a container's network.
func bind(t *testing.T, c *container, id string) *network.Binding {
	t.Helper()
	binding, err := tryBind(c, id)
	must(t, err)
	return binding
}

func tryBind(c *container, id string) (binding *network.Binding, err error) {
	err = c.Do(func() error {
		binding, err = network.Bind(context.Background(), id)
		return err
	})
	return binding, err
}

// unbind removes what bind has made.
func unbind(t *testing.T, c *container, binding *network.Binding) {
	t.Helper()
	must(t, c.Do(binding.Close))
}

// attach gives a guest the interfaces of a binding.
func attach(t *testing.T, c *container, binding *network.Binding) *tapguest.Guest {
	t.Helper()
	var taps []string
	for _, nic := range binding.NICs {
		taps = append(taps, nic.HostDevName)
	}
	g, err := tapguest.Attach(c.Namespace, taps, binding.Guest)
	must(t, err)
	t.Cleanup(func() { g.Close() })
	return g
}

// guest gives a container a guest, until the test's end.
func guest(t *testing.T, c *container) *tapguest.Guest {
	t.Helper()
	binding := bind(t, c, containerID)
	t.Cleanup(func() { unbind(t, c, binding) })
	return attach(t, c, binding)
}

// transfer sends by TCP and fails the test unless all arrives.
func transfer(t *testing.T, from, to *tapguest.Namespace, address netip.Addr, size int64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), harness.Patience)
	defer cancel()
	took, err := tapguest.Transfer(ctx, from, to, address, size, true)
	must(t, err)
	t.Logf("%d MiB to %s in %s", size/mebibyte, address, took)
}

// exchange sends datagrams and fails the test unless each is answered.
func exchange(t *testing.T, from, to *tapguest.Namespace, address netip.Addr, size, count int) {
	t.Helper()
	if _, err := tapguest.RoundTrips(from, to, address, size, count); err != nil {
		t.Fatalf("%d datagrams of %d bytes: %v", count, size, err)
	}
}

// both calls a function with a container's addresses of each family, and the host's.
func both(c *container, do func(guest, host netip.Addr)) {
	do(c.v4, host4)
	do(c.v6, host6)
}

// state is what a namespace has, for comparison: interfaces, addresses, routes, permanent neighbours, qdiscs, filters, tables
// of nftables and parameters.
// The filters are those of one of its interfaces. Left out is the length of queues: the kernel gives an interface without one a length with its first qdisc.
func state(t *testing.T, n *tapguest.Namespace, device string) string {
	t.Helper()
	var all strings.Builder
	must(t, n.Do(func() error {
		for _, args := range [][]string{
			{"ip", "-o", "link"}, {"ip", "-o", "addr"}, {"ip", "route", "show", "table", "all"}, {"ip", "-6", "route", "show", "table", "all"},
			{"ip", "neigh", "show", "nud", "permanent"}, {"tc", "qdisc"}, {"tc", "filter", "show", "dev", device, "ingress"},
			{"sysctl", "net.ipv4.ip_local_port_range", "net.ipv4.tcp_tw_reuse"},
		} {
			out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
			if err != nil {
				return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, out)
			}
			fmt.Fprintf(&all, "%s:\n%s", strings.Join(args, " "), queueLength.ReplaceAll(out, nil))
		}
		rules, err := nftables.New()
		if err != nil {
			return err
		}
		tables, err := rules.ListTables()
		for _, table := range tables {
			fmt.Fprintf(&all, "nftables %s, family %d\n", table.Name, table.Family)
		}
		return err
	}))
	return all.String()
}

var queueLength = regexp.MustCompile(`qlen \d+`)

// unchanged fails the test where a namespace is not in the state that it was in.
func unchanged(t *testing.T, n *tapguest.Namespace, device, before string) {
	t.Helper()
	if diff := cmp.Diff(strings.Split(before, "\n"), strings.Split(state(t, n, device), "\n")); diff != "" {
		t.Fatalf("a namespace has changed (-before +after):\n%s", diff)
	}
}
