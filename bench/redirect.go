package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/runcvm/runcvm/internal/cleanup"
	"github.com/runcvm/runcvm/internal/guestapi"
	"github.com/runcvm/runcvm/internal/network"
	"github.com/runcvm/runcvm/test/network/tapguest"
)

const (
	// transferSize is of one transfer, in bytes: a tenth of a second, so that what else the machine does falls on both sides of a pair.
	transferSize = 128 << 20
	// trips are timed together, each a datagram of tripSize bytes and its answer.
	trips    = 4000
	tripSize = 64
	// wireMTU is a container's as a rule.
	wireMTU = 1500
)

var (
	outsideAddress = netip.MustParseAddr("10.79.0.1")
	guestAddress   = netip.MustParseAddr("10.79.0.2")
)

// wired is a guest of package tapguest, whose TAP is joined with a container's interface in one way or the other.
type wired struct {
	outside *tapguest.Namespace
	guest   *tapguest.Guest
	undo    cleanup.Stack
}

// redirectRow compares the redirection of frames between a container's interface and its guest's TAP with a Linux bridge of the two.
func redirectRow(ctx context.Context, b *bench) (_ []Result, err error) {
	redirected, err := newWired(ctx, redirectTAP)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, redirected.close(ctx)) }()
	bridged, err := newWired(ctx, bridgeTAP)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, bridged.close(ctx)) }()
	var results []Result
	for _, direction := range []struct {
		name, what string
		transfer   func(*wired) (time.Duration, error)
	}{
		{"redirect-to-guest-ratio", "to the guest", func(w *wired) (time.Duration, error) {
			return tapguest.Transfer(ctx, w.outside, w.guest.Namespace, guestAddress, transferSize, false)
		}},
		{"redirect-from-guest-ratio", "from the guest", func(w *wired) (time.Duration, error) {
			return tapguest.Transfer(ctx, w.guest.Namespace, w.outside, outsideAddress, transferSize, false)
		}},
	} {
		ours, baseline, err := pairs(b.transfers, side(direction.transfer, redirected), side(direction.transfer, bridged))
		if err != nil {
			return nil, err
		}
		results = append(results, Result{
			Name: direction.name, Unit: "ratio", Goal: new(0.95), AtLeast: true, Samples: ratios(baseline, ours),
			Raw: map[string][]float64{"redirect_s": ours, "bridge_s": baseline},
			What: "throughput of 128 MiB by TCP " + direction.what + ", with offloads, through the redirection with all its filters / " +
				"through a Linux bridge of the same two interfaces; a program opens the TAP as Firecracker does, and the guest is a " +
				"network namespace's stack behind it",
		})
	}
	trip := func(w *wired) (time.Duration, error) {
		took, err := tapguest.RoundTrips(w.outside, w.guest.Namespace, guestAddress, tripSize, trips)
		return took / trips, err
	}
	ours, baseline, err := pairs(b.transfers, side(trip, redirected), side(trip, bridged))
	if err != nil {
		return nil, err
	}
	latency := Result{Name: "redirect-latency-ratio", Unit: "ratio", Goal: new(1.1), Samples: ratios(ours, baseline),
		Raw:  map[string][]float64{"redirect_us": microseconds(ours), "bridge_us": microseconds(baseline)},
		What: "a datagram of 64 bytes to the guest and its answer, the mean of 4,000 one after the other, both ways as above"}
	return append(results, latency), nil
}

// side is what pairs calls.
func side(measure func(*wired) (time.Duration, error), w *wired) func() (time.Duration, error) {
	return func() (time.Duration, error) { return measure(w) }
}

func microseconds(seconds []float64) []float64 {
	us := make([]float64, len(seconds))
	for i, s := range seconds {
		us[i] = s * 1e6
	}
	return us
}

// newWired makes two namespaces, a wire between them, and a guest by join, which gets the container's.
func newWired(ctx context.Context, join func(context.Context, *wired, *tapguest.Namespace) error) (_ *wired, err error) {
	w := &wired{}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close(ctx))
		}
	}()
	if w.outside, err = tapguest.NewNamespace(); err != nil {
		return nil, err
	}
	w.undo.AddFunc(w.outside.Close)
	container, err := tapguest.NewNamespace()
	if err != nil {
		return nil, err
	}
	w.undo.AddFunc(container.Close)
	err = tapguest.Wire(wireMTU,
		tapguest.Port{Namespace: w.outside, Name: "outside", Addresses: []netip.Prefix{netip.PrefixFrom(outsideAddress, 24)}},
		tapguest.Port{Namespace: container, Name: "eth0"})
	if err != nil {
		return nil, err
	}
	if err := join(ctx, w, container); err != nil {
		return nil, err
	}
	w.undo.AddFunc(w.guest.Close)
	return w, nil
}

func (w *wired) close(ctx context.Context) error { return w.undo.Run(ctx, time.Minute) }

// redirectTAP joins TAP and interface as RunCVM does, in the way that has most filters: beside Docker's resolver.
func redirectTAP(ctx context.Context, w *wired, container *tapguest.Namespace) error {
	var binding *network.Binding
	err := container.Do(func() error {
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		mask := net.CIDRMask(24, 32)
		if err := netlink.AddrAdd(eth0, &netlink.Addr{IPNet: &net.IPNet{IP: guestAddress.AsSlice(), Mask: mask}}); err != nil {
			return err
		}
		resolver, err := net.ListenPacket("udp4", "127.0.0.11:0")
		if err != nil {
			return err
		}
		w.undo.AddFunc(resolver.Close)
		binding, err = network.Bind(ctx, "bench")
		return err
	})
	if err != nil {
		return err
	}
	w.undo.AddFunc(func() error { return container.Do(binding.Close) })
	if len(binding.NICs) != 1 || !binding.Resolver || len(binding.Notes) > 0 {
		return fmt.Errorf("not all filters are there: %d interfaces, with a resolver: %t, notes: %q",
			len(binding.NICs), binding.Resolver, binding.Notes)
	}
	w.guest, err = tapguest.Attach(container, []string{binding.NICs[0].HostDevName}, binding.Guest)
	return err
}

// bridgeTAP joins them by a bridge. The guest needs a hardware address of its own: the bridge takes that of a member for itself.
func bridgeTAP(_ context.Context, w *wired, container *tapguest.Namespace) (err error) {
	request := &guestapi.NetworkRequest{Interfaces: []*guestapi.NetworkInterface{{
		Name: "eth0", Mac: net.HardwareAddr{2, 0, 0, 0, 0, 1}, Mtu: wireMTU,
		Addresses: []*guestapi.NetworkAddress{{Ip: guestAddress.AsSlice(), Prefix: 24}},
	}}}
	if w.guest, err = tapguest.Attach(container, []string{"tap0"}, request); err != nil {
		return err
	}
	return container.Do(func() error {
		// A bridge that calls iptables for each frame would be slower.
		calls, err := filepath.Glob("/proc/sys/net/bridge/bridge-nf-call-*")
		if err != nil {
			return err
		}
		for _, path := range calls {
			if err := os.WriteFile(path, []byte("0"), 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}
		if err := netlink.LinkAdd(bridge); err != nil {
			return err
		}
		for _, name := range []string{"tap0", "eth0"} {
			member, err := netlink.LinkByName(name)
			if err != nil {
				return err
			}
			if err := errors.Join(netlink.LinkSetMaster(member, bridge), netlink.LinkSetUp(member)); err != nil {
				return err
			}
		}
		return netlink.LinkSetUp(bridge)
	})
}
