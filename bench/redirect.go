package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/runcvm/runcvm/internal/guestapi"
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

// wired is a guest of package tapguest, whose TAP is joined with a container's interface in one way or the other.
type wired struct {
	*tapguest.Bed
	container *tapguest.Container
	guest     *tapguest.Guest
}

// redirectRow compares the redirection of frames between a container's interface and its guest's TAP with a Linux bridge of the two.
func redirectRow(ctx context.Context, b *bench) (_ []Result, err error) {
	redirected, err := newWired(ctx, redirectTAP)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, redirected.Close()) }()
	bridged, err := newWired(ctx, bridgeTAP)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, bridged.Close()) }()
	var results []Result
	for _, direction := range []struct {
		name, what string
		transfer   func(*wired) (time.Duration, error)
	}{
		{"redirect-to-guest-ratio", "to the guest", func(w *wired) (time.Duration, error) {
			return tapguest.Transfer(ctx, w.Host, w.guest.Namespace, w.container.V4, transferSize, false)
		}},
		{"redirect-from-guest-ratio", "from the guest", func(w *wired) (time.Duration, error) {
			return tapguest.Transfer(ctx, w.guest.Namespace, w.Host, tapguest.Host4, transferSize, false)
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
		took, err := tapguest.RoundTrips(w.Host, w.guest.Namespace, w.container.V4, tripSize, trips)
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

// newWired makes a host, a container at the other end of a wire, and a guest by join.
func newWired(ctx context.Context, join func(context.Context, *wired) error) (_ *wired, err error) {
	w := &wired{}
	if w.Bed, err = tapguest.NewBed(wireMTU); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.Close())
		}
	}()
	if w.container, err = w.AddContainer(); err != nil {
		return nil, err
	}
	if err := join(ctx, w); err != nil {
		return nil, err
	}
	w.Undo(w.guest.Close)
	return w, nil
}

// redirectTAP joins TAP and interface as RunCVM does, in the way that has most filters: beside Docker's resolver.
func redirectTAP(ctx context.Context, w *wired) error {
	resolver, err := w.container.ListenAsResolver()
	if err != nil {
		return err
	}
	w.Undo(resolver.Close)
	binding, err := w.container.Bind(ctx, "bench")
	if err != nil {
		return err
	}
	w.Undo(binding.Close)
	if len(binding.NICs) != 1 || !binding.Resolver || len(binding.Notes) > 0 {
		return fmt.Errorf("not all filters are there: %d interfaces, with a resolver: %t, notes: %q",
			len(binding.NICs), binding.Resolver, binding.Notes)
	}
	w.guest, err = binding.Attach()
	return err
}

// bridgeTAP joins them by a bridge. The guest gets the container's address, and needs a hardware address of its own: the bridge takes that
// of a member for itself.
func bridgeTAP(_ context.Context, w *wired) (err error) {
	const bits = 24
	address := w.container.V4.AsSlice()
	request := &guestapi.NetworkRequest{Interfaces: []*guestapi.NetworkInterface{{
		Name: "eth0", Mac: net.HardwareAddr{2, 0, 0, 0, 0, 1}, Mtu: wireMTU,
		Addresses: []*guestapi.NetworkAddress{{Ip: address, Prefix: bits}},
	}}}
	if w.guest, err = tapguest.Attach(w.container.Namespace, []string{"tap0"}, request); err != nil {
		return err
	}
	return w.container.Do(func() error {
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
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		own := &net.IPNet{IP: address, Mask: net.CIDRMask(bits, 8*len(address))}
		if err := netlink.AddrDel(eth0, &netlink.Addr{IPNet: own}); err != nil {
			return err
		}
		bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}
		if err := netlink.LinkAdd(bridge); err != nil {
			return err
		}
		for _, name := range []string{"tap0", "eth0"} {
			if err := tapguest.AddToBridge(bridge, name); err != nil {
				return err
			}
		}
		return netlink.LinkSetUp(bridge)
	})
}
