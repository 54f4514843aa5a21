// Package tapguest plays a microVM on a TAP of internal/network without any VMM: the guest is a network namespace, and its stack is the
// kernel's own.
//
// Between the two lies what a VMM is there: a program that opens the TAP with virtio-net headers and offloads as Firecracker does, and
// moves frames with their headers, unchanged, to and from an interface that the guest's namespace sees as its own. So checksums and
// segments that are still to be made stay so up to the guest's stack, as through a virtio-net device.
//
// Legal order: NewBed makes a network, with AddBridge before AddContainer, or NewNamespace and Wire do; Namespace.Bind binds the interfaces
// of a namespace of it; Binding.Attach gives them to a guest; Transfer and RoundTrips are traffic between any two namespaces; Guest.Close
// before the binding's. Bed.Close and Namespace.Close come last.
// Root is needed. Test and benchmark use it both, so that they drive the same program.
package tapguest

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/network"
)

// Namespace is a network namespace without a name. It lasts until Close and the end of all sockets in it.
type Namespace struct{ file *os.File }

// NewNamespace makes one, with its loopback interface up.
func NewNamespace() (*Namespace, error) {
	n := &Namespace{}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			n.file, err = os.Open("/proc/thread-self/ns/net")
		}
		if err != nil {
			err = fmt.Errorf("make a network namespace: %w", err)
		}
		done <- err
	}()
	if err := <-done; err != nil {
		return nil, err
	}
	return n, n.Do(prepare)
}

// prepare sets a new namespace up, whose interfaces do not ask for a second whether others have their link-local addresses.
func prepare() error {
	for _, interfaces := range []string{"all", "default"} {
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+interfaces+"/accept_dad", []byte("0"), 0); err != nil {
			return err
		}
	}
	return setUp("lo")
}

// Close gives it up.
func (n *Namespace) Close() error { return n.file.Close() }

// Do calls f by a thread that is in the namespace; so are the sockets that f opens and the programs that it starts.
func (n *Namespace) Do(f func() error) error {
	return network.In(fmt.Sprintf("/proc/self/fd/%d", n.file.Fd()), f)
}

func setUp(name string) error {
	link, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkSetUp(link)
	}
	if err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	return nil
}

// Port is an end of a wire: an interface of a namespace, with its addresses.
type Port struct {
	Namespace *Namespace
	Name      string
	Addresses []netip.Prefix
	// Gateways are of the default routes.
	Gateways []netip.Addr
}

// Wire makes a veth pair of this MTU, both ends up with their addresses.
func Wire(mtu int, a, b Port) error {
	err := a.Namespace.Do(func() error {
		return netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: a.Name, MTU: mtu}, PeerName: b.Name, PeerMTU: uint32(mtu),
			PeerNamespace: netlink.NsFd(b.Namespace.file.Fd()),
		})
	})
	if err != nil {
		return fmt.Errorf("make the wire %s to %s: %w", a.Name, b.Name, err)
	}
	if err := errors.Join(a.setUp(), b.setUp()); err != nil {
		return err
	}
	return errors.Join(a.await(), b.await())
}

// readyTimeout bounds the wait for the kernel to have done what it does by itself when both ends are up.
const readyTimeout = 10 * time.Second

// await waits until the kernel knows that the port is up, and it has its link-local address and can use all addresses: the kernel sees to
// all of it a moment later.
func (p Port) await() error {
	return p.Namespace.Do(func() error {
		for deadline := time.Now().Add(readyTimeout); ; time.Sleep(time.Millisecond) {
			link, err := netlink.LinkByName(p.Name)
			if err != nil {
				return err
			}
			addresses, err := netlink.AddrList(link, netlink.FAMILY_V6)
			if err != nil {
				return err
			}
			local, tentative := false, false
			for _, a := range addresses {
				local = local || a.IP.IsLinkLocalUnicast()
				tentative = tentative || a.Flags&unix.IFA_F_TENTATIVE != 0
			}
			state := link.Attrs().OperState
			if local && !tentative && state == netlink.OperUp {
				return nil
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("interface %s is %s, has no link-local address or cannot use its addresses: %v", p.Name, state, addresses)
			}
		}
	})
}

func (p Port) setUp() error {
	return p.Namespace.Do(func() error {
		if err := setUp(p.Name); err != nil {
			return err
		}
		for _, address := range p.Addresses {
			if err := addAddress(p.Name, address); err != nil {
				return err
			}
		}
		for _, gateway := range p.Gateways {
			if err := netlink.RouteAdd(&netlink.Route{Gw: gateway.AsSlice()}); err != nil {
				return fmt.Errorf("add a default route by %s: %w", gateway, err)
			}
		}
		return nil
	})
}

// addAddress adds an address that can be used at once.
func addAddress(name string, address netip.Prefix) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	bits := address.Addr().BitLen()
	err = netlink.AddrReplace(link, &netlink.Addr{
		IPNet: &net.IPNet{IP: address.Addr().AsSlice(), Mask: net.CIDRMask(address.Bits(), bits)}, Flags: unix.IFA_F_NODAD,
	})
	if err != nil {
		return fmt.Errorf("add %s to %s: %w", address, name, err)
	}
	return nil
}
