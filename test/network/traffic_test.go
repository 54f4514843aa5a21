//go:build e2e

package network

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/test/network/tapguest"
)

// All the way, a frame stands for many segments, and who sends does not compute checksums.
func TestAGibibyteEachWayArrivesWithOffloads(t *testing.T) {
	b := newBed(t, 1500)
	c := b.container()
	g := guest(t, c)
	both(c, func(guest, host netip.Addr) {
		transfer(t, b.Host, g.Namespace, guest, gibibyte)
		transfer(t, g.Namespace, b.Host, host, gibibyte)
	})
	for name, counted := range map[string]*tapguest.Counters{"to": &g.NICs[0].ToGuest, "from": &g.NICs[0].FromGuest} {
		t.Logf("%s the guest: %d frames, %d with segments, %d without checksum, %d bytes the largest", name, counted.Frames.Load(),
			counted.Segmented.Load(), counted.Partial.Load(), counted.Largest.Load())
		if counted.Segmented.Load() == 0 || counted.Largest.Load() <= 10*1500 {
			t.Errorf("%s the guest there were no large frames: segmentation was not left to the interface", name)
		}
		if counted.Partial.Load() == 0 {
			t.Errorf("%s the guest all checksums were computed: that was not left to the interface", name)
		}
	}
}

func TestDatagramsOfAllSizesAreAnsweredEachWay(t *testing.T) {
	b := newBed(t, 1500)
	c := b.container()
	g := guest(t, c)
	partial := func() (to, from int64) { return g.NICs[0].ToGuest.Partial.Load(), g.NICs[0].FromGuest.Partial.Load() }
	// The largest of each header's size that one frame takes, and two that fragments carry.
	for _, size := range []int{1, 2, 63, 1452, 1472, 1473, 8000, 60000} {
		both(c, func(guest, host netip.Addr) {
			to, from := partial()
			exchange(t, b.Host, g.Namespace, guest, size, 20)
			exchange(t, g.Namespace, b.Host, host, size, 20)
			if to2, from2 := partial(); size <= 1452 && (to2-to < 40 || from2-from < 40) {
				t.Errorf("of 40 datagrams of %d bytes each way, %d and %d were without a checksum", size, to2-to, from2-from)
			}
		})
	}
}

// The guest's interface takes the largest frame that the container's takes, both ways, and says so.
func TestTheGuestHasTheInterfacesMTU(t *testing.T) {
	for _, mtu := range []int{1280, 1400, 9000} {
		t.Run(fmt.Sprint(mtu), func(t *testing.T) {
			b := newBed(t, mtu)
			c := b.container()
			g := guest(t, c)
			must(t, g.Do(func() error {
				link, err := net.InterfaceByName("eth0")
				if err == nil && link.MTU != mtu {
					err = fmt.Errorf("the guest's MTU is %d", link.MTU)
				}
				return err
			}))
			both(c, func(guest, host netip.Addr) {
				transfer(t, b.Host, g.Namespace, guest, 16*mebibyte)
				transfer(t, g.Namespace, b.Host, host, 16*mebibyte)
				headers := 20 + 8
				if guest.Is6() {
					headers = 40 + 8
				}
				before := g.NICs[0].ToGuest.Frames.Load()
				exchange(t, b.Host, g.Namespace, guest, mtu-headers, 100)
				if got := g.NICs[0].ToGuest.Frames.Load() - before; got >= 2*100 {
					t.Errorf("100 datagrams that fill an interface's frames came in %d", got)
				}
			})
			if err := sendWhole(g.Namespace, tapguest.Host4, mtu-28); err != nil {
				t.Errorf("a datagram of the interface's MTU: %v", err)
			}
			if err := sendWhole(g.Namespace, tapguest.Host4, mtu-27); err == nil {
				t.Error("the guest sends a datagram that is longer than the interface's MTU, and must not be fragmented")
			}
		})
	}
}

// sendWhole sends a datagram that must not be fragmented.
func sendWhole(from *tapguest.Namespace, to netip.Addr, size int) error {
	return from.Do(func() error {
		conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, 9)))
		if err != nil {
			return err
		}
		defer conn.Close()
		raw, err := conn.SyscallConn()
		if err != nil {
			return err
		}
		var option error
		err = raw.Control(func(fd uintptr) {
			option = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
		})
		if err != nil || option != nil {
			return fmt.Errorf("%w, %w", err, option)
		}
		_, err = conn.Write(make([]byte, size))
		return err
	})
}

func TestEachOfSeveralInterfacesReachesItsOwnNetwork(t *testing.T) {
	b := newBed(t, 1500)
	c := b.container()
	second := newNamespace(t)
	there, here := netip.MustParseAddr("10.78.0.1"), netip.MustParseAddr("10.78.0.2")
	must(t, tapguest.Wire(1400, tapguest.Port{Namespace: second, Name: "far", Addresses: []netip.Prefix{netip.PrefixFrom(there, 24)}},
		tapguest.Port{Namespace: c.Namespace, Name: "eth1", Addresses: []netip.Prefix{netip.PrefixFrom(here, 24)}}))
	g := guest(t, c)
	transfer(t, g.Namespace, b.Host, tapguest.Host4, mebibyte)
	transfer(t, g.Namespace, second, there, mebibyte)
	transfer(t, second, g.Namespace, here, mebibyte)
	if len(g.NICs) != 2 || g.NICs[0].FromGuest.Segmented.Load() == 0 || g.NICs[1].FromGuest.Segmented.Load() == 0 {
		t.Errorf("%d interfaces, or one without traffic", len(g.NICs))
	}
}
