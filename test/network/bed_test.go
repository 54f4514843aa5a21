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

	"github.com/runcvm/runcvm/test/harness"
	"github.com/runcvm/runcvm/test/network/tapguest"
)

const (
	mebibyte = 1 << 20
	gibibyte = 1 << 30

	// containerID is of the container that has a guest.
	containerID = "0123456789abcdef"
	tapName     = "b9fc_01234567"
)

// bed is a host with a bridge, and containers on that.
type bed struct {
	*tapguest.Bed
	t *testing.T
}

func newBed(t *testing.T, mtu int) *bed {
	t.Helper()
	b, err := tapguest.NewBed(mtu)
	must(t, err)
	t.Cleanup(func() { must(t, b.Close()) })
	must(t, b.AddBridge())
	return &bed{b, t}
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

// container adds a container.
func (b *bed) container() *tapguest.Container {
	b.t.Helper()
	c, err := b.AddContainer()
	must(b.t, err)
	return c
}

// bind binds a container's network.
func bind(t *testing.T, c *tapguest.Container, id string) *tapguest.Binding {
	t.Helper()
	binding, err := c.Bind(t.Context(), id)
	must(t, err)
	return binding
}

// attach gives a guest the interfaces of a binding.
func attach(t *testing.T, binding *tapguest.Binding) *tapguest.Guest {
	t.Helper()
	g, err := binding.Attach()
	must(t, err)
	t.Cleanup(func() { g.Close() })
	return g
}

// guest gives a container a guest, until the test's end.
func guest(t *testing.T, c *tapguest.Container) *tapguest.Guest {
	t.Helper()
	binding := bind(t, c, containerID)
	t.Cleanup(func() { must(t, binding.Close()) })
	return attach(t, binding)
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
func both(c *tapguest.Container, do func(guest, host netip.Addr)) {
	do(c.V4, tapguest.Host4)
	do(c.V6, tapguest.Host6)
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
