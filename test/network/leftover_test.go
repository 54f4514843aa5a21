//go:build e2e

package network

import (
	"errors"
	"fmt"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/runcvm/runcvm/test/harness"
	"github.com/runcvm/runcvm/test/network/tapguest"
)

func TestCloseLeavesTheNamespaceAsItWas(t *testing.T) {
	for name, resolver := range map[string]bool{"alone": false, "with a resolver": true} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t, 1500)
			c := b.container()
			if resolver {
				listenAsResolver(t, c)
			}
			before := state(t, c.Namespace, "eth0")
			binding := bind(t, c, containerID)
			if bound := state(t, c.Namespace, "eth0"); bound == before || binding.Resolver != resolver {
				t.Fatalf("bound, with a resolver: %t:\n%s", binding.Resolver, bound)
			}
			g := attach(t, binding)
			transfer(t, g.Namespace, b.Host, tapguest.Host4, mebibyte)
			must(t, g.Close())
			must(t, binding.Close())
			unchanged(t, c.Namespace, "eth0", before)
			// What had the address before has it again.
			transfer(t, b.Host, c.Namespace, c.V4, mebibyte)
			transfer(t, c.Namespace, b.Host, tapguest.Host4, mebibyte)
		})
	}
}

// A monitor that is killed closes nothing.
func TestTheNextBindingRemovesWhatAKilledOneHasLeft(t *testing.T) {
	for name, loss := range map[string]func() error{
		"all":                       func() error { return nil },
		"redirections to no TAP":    func() error { return ip("link", "del", "b9fc_first") },
		"a TAP without redirection": func() error { return run("tc", "qdisc", "del", "dev", "eth0", "ingress") },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t, 1500)
			c := b.container()
			listenAsResolver(t, c)
			before := state(t, c.Namespace, "eth0")
			attach(t, bind(t, c, "first")) // its VMM is there still
			must(t, c.Do(loss))
			binding := bind(t, c, containerID)
			must(t, c.Do(func() error {
				if _, err := netlink.LinkByName("b9fc_first"); !errors.As(err, new(netlink.LinkNotFoundError)) {
					return fmt.Errorf("the first binding's TAP: %w", err)
				}
				return nil
			}))
			g := attach(t, binding)
			transfer(t, g.Namespace, b.Host, tapguest.Host4, mebibyte)
			transfer(t, b.Host, g.Namespace, c.V4, mebibyte)
			must(t, g.Close())
			must(t, binding.Close())
			unchanged(t, c.Namespace, "eth0", before)
		})
	}
}

func TestABindingThatFailsLeavesNothing(t *testing.T) {
	b := newBed(t, 1500)
	c := b.container()
	must(t, c.Do(func() error { return ip("link", "add", "zzz", "type", "veth", "peer", "name", "zzz-peer") }))
	must(t, c.Do(func() error { return ip("link", "set", "zzz", "up") }))
	// The second interface cannot be redirected, after the first was.
	must(t, c.Do(func() error { return run("tc", "qdisc", "add", "dev", "zzz", "ingress") }))
	// The kernel takes a moment to find that the other end is down.
	harness.Eventually(t, harness.Soon, func() error {
		return c.Do(func() error {
			zzz, err := netlink.LinkByName("zzz")
			if err == nil && zzz.Attrs().OperState != netlink.OperLowerLayerDown {
				err = fmt.Errorf("zzz is %s", zzz.Attrs().OperState)
			}
			return err
		})
	})
	before := state(t, c.Namespace, "eth0")
	if _, err := c.Bind(t.Context(), containerID); err == nil {
		t.Fatal("an interface that is redirected already was bound")
	}
	unchanged(t, c.Namespace, "eth0", before)
}
