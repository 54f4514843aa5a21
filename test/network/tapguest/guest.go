package tapguest

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/guestapi"
)

// Guest is a namespace whose interfaces are behind TAPs of another namespace.
type Guest struct {
	*Namespace
	// NICs are in the order of the binding.
	NICs []*NIC
}

// Attach opens TAPs of a namespace, as a VMM does, and gives a new guest an interface for each, set up as the request says.
func Attach(at *Namespace, taps []string, request *guestapi.NetworkRequest) (_ *Guest, err error) {
	if len(taps) != len(request.Interfaces) {
		return nil, fmt.Errorf("%d TAPs for %d interfaces", len(taps), len(request.Interfaces))
	}
	g := &Guest{}
	if g.Namespace, err = NewNamespace(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, g.Close())
		}
	}()
	for i, tap := range taps {
		nic, err := attach(at, tap, g.Namespace, request.Interfaces[i])
		if err != nil {
			return nil, fmt.Errorf("attach a guest to %s: %w", tap, err)
		}
		g.NICs = append(g.NICs, nic)
	}
	return g, g.Do(func() error { return addRoutes(request.Routes) })
}

// Close takes the guest away, as the end of its VMM does.
func (g *Guest) Close() error {
	var errs []error
	for _, nic := range g.NICs {
		errs = append(errs, nic.close())
	}
	return errors.Join(append(errs, g.Namespace.Close())...)
}

// NIC is one of a guest's interfaces.
type NIC struct {
	// MAC is its hardware address.
	MAC net.HardwareAddr
	// ToGuest and FromGuest count frames.
	ToGuest, FromGuest Counters

	tap *os.File // at the host's side
	own *os.File // at the guest's
	// reading is held while the TAP is not read.
	reading sync.Mutex
	pumps   sync.WaitGroup
}

func attach(at *Namespace, tap string, guest *Namespace, setup *guestapi.NetworkInterface) (_ *NIC, err error) {
	n := &NIC{MAC: setup.Mac}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.close())
		}
	}()
	err = at.Do(func() (err error) {
		n.tap, err = openTAP(tap)
		return err
	})
	if err != nil {
		return nil, err
	}
	err = guest.Do(func() (err error) {
		if n.own, err = openTAP(setup.Name); err != nil {
			return err
		}
		return configure(setup)
	})
	if err != nil {
		return nil, err
	}
	n.pumps.Go(func() { pump(n.tap, n.own, &n.ToGuest, &n.reading) })
	n.pumps.Go(func() { pump(n.own, n.tap, &n.FromGuest, &sync.Mutex{}) })
	return n, nil
}

// close ends the program that moves frames; the guest's interface goes with it.
func (n *NIC) close() error {
	var errs []error
	for _, f := range []*os.File{n.tap, n.own} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	n.pumps.Wait()
	return errors.Join(errs...)
}

// Stop no longer reads the TAP, as a guest that hangs does not take what arrives. One more frame may be taken.
func (n *NIC) Stop() { n.reading.Lock() }

// Continue reads the TAP again.
func (n *NIC) Continue() { n.reading.Unlock() }

// Send gives the TAP a frame with a virtio-net header, which a guest's driver chooses and a VMM hands on; here its length too may be any.
func (n *NIC) Send(header, frame []byte) error {
	_, err := n.tap.Write(append(append(make([]byte, 0, len(header)+len(frame)), header...), frame...))
	return err
}

// configure sets a guest's interface up as its agent does.
func configure(setup *guestapi.NetworkInterface) error {
	link, err := netlink.LinkByName(setup.Name)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetHardwareAddr(link, setup.Mac); err != nil {
		return fmt.Errorf("hardware address: %w", err)
	}
	if err := netlink.LinkSetMTU(link, int(setup.Mtu)); err != nil {
		return fmt.Errorf("MTU: %w", err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return err
	}
	for _, a := range setup.Addresses {
		ip, _ := netip.AddrFromSlice(a.Ip)
		if err := addAddress(setup.Name, netip.PrefixFrom(ip, int(a.Prefix))); err != nil {
			return err
		}
	}
	return nil
}

func addRoutes(routes []*guestapi.NetworkRoute) error {
	for _, r := range routes {
		link, err := netlink.LinkByName(r.Interface)
		if err != nil {
			return err
		}
		route := &netlink.Route{LinkIndex: link.Attrs().Index, Gw: r.Gateway, Src: r.Source, Priority: int(r.Metric),
			Scope: netlink.Scope(r.Scope), Type: int(r.Kind), MTU: int(r.Mtu)}
		if len(r.Destination) > 0 {
			route.Dst = &net.IPNet{IP: r.Destination, Mask: net.CIDRMask(int(r.Prefix), 8*len(r.Destination))}
		}
		if err := netlink.RouteReplace(route); err != nil {
			return fmt.Errorf("add the route %s: %w", route, err)
		}
	}
	return nil
}

// openTAP opens a TAP of the calling thread's namespace, or makes one that lasts while it is open, with one queue and all offloads
// that Firecracker's virtio-net device has.
func openTAP(name string) (_ *os.File, err error) {
	// Not blocking: only then does closing it end a read.
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	defer func() {
		if err != nil {
			_ = unix.Close(fd)
		}
	}()
	req, err := unix.NewIfreq(name)
	if err != nil {
		return nil, err
	}
	req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		return nil, fmt.Errorf("open TAP %s: %w", name, err)
	}
	const offloads = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_UFO
	if err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, offloads); err != nil {
		return nil, fmt.Errorf("set the offloads of TAP %s: %w", name, err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, headerSize); err != nil {
		return nil, fmt.Errorf("set the header of TAP %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}
