package network

import (
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/guestapi"
)

// found is what a namespace has that a guest is to have.
type found struct {
	links   []netlink.Link
	request *guestapi.NetworkRequest
	notes   []string
	// resolver says that Docker's listens there.
	resolver bool
}

// note keeps what the guest does not get.
func (f *found) note(format string, args ...any) {
	f.notes = append(f.notes, fmt.Sprintf(format, args...))
}

// readNamespace reads the interfaces of the calling process's namespace with all that belongs to them.
func readNamespace() (*found, error) {
	f := &found{request: &guestapi.NetworkRequest{}}
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	names := map[int]string{}
	for _, l := range links {
		a := l.Attrs()
		if a.Flags&net.FlagLoopback != 0 || a.Flags&net.FlagUp == 0 {
			continue // an interface that is down, as each tunnel of a new namespace is, is nobody's
		}
		if len(a.HardwareAddr) != 6 || a.RawFlags&unix.IFF_NOARP != 0 {
			f.note("interface %s (%s) has no Ethernet: the guest does not get it", a.Name, l.Type())
			continue
		}
		nic, err := f.readInterface(l)
		if err != nil {
			return nil, fmt.Errorf("interface %s: %w", a.Name, err)
		}
		names[a.Index] = a.Name
		f.links = append(f.links, l)
		f.request.Interfaces = append(f.request.Interfaces, nic)
	}
	if err := f.readRoutes(names); err != nil {
		return nil, err
	}
	if err := f.readNeighbours(names); err != nil {
		return nil, err
	}
	f.resolver, err = hasResolver()
	return f, err
}

func (f *found) readInterface(l netlink.Link) (*guestapi.NetworkInterface, error) {
	a := l.Attrs()
	nic := &guestapi.NetworkInterface{Name: a.Name, Mac: a.HardwareAddr, Mtu: uint32(a.MTU)}
	off, err := readSysctl("ipv6/conf/" + a.Name + "/disable_ipv6")
	nic.Ipv6 = err == nil && off == "0"
	addrs, err := netlink.AddrList(l, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	for _, addr := range addrs {
		if addr.Flags&unix.IFA_F_DADFAILED != 0 {
			f.note("address %s of %s is another machine's: the guest does not get it", addr.IPNet, a.Name)
			continue
		}
		ones, _ := addr.Mask.Size()
		out := &guestapi.NetworkAddress{
			Ip: short(addr.IP), Prefix: uint32(ones), Scope: uint32(addr.Scope), Broadcast: short(addr.Broadcast),
		}
		if addr.Peer != nil && !addr.Peer.IP.Equal(addr.IP) {
			ones, _ := addr.Peer.Mask.Size()
			out.Peer, out.Prefix = short(addr.Peer.IP), uint32(ones)
		}
		out.NoPrefixRoute = addr.Flags&unix.IFA_F_NOPREFIXROUTE != 0
		nic.Addresses = append(nic.Addresses, out)
	}
	return nic, nil
}

func (f *found) readNeighbours(names map[int]string) error {
	for index, name := range names {
		for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
			all, err := netlink.NeighList(index, family)
			if err != nil {
				return fmt.Errorf("list neighbours: %w", err)
			}
			for _, n := range all {
				if n.State&netlink.NUD_PERMANENT != 0 && len(n.HardwareAddr) == 6 && !n.IP.IsMulticast() {
					f.request.Neighbours = append(f.request.Neighbours,
						&guestapi.NetworkNeighbour{Interface: name, Ip: short(n.IP), Mac: n.HardwareAddr})
				}
			}
		}
	}
	return nil
}

// short is an address in 4 bytes where that is enough; nil for none and for the unspecified one.
func short(ip net.IP) []byte {
	if ip == nil || ip.IsUnspecified() {
		return nil
	}
	if v4 := ip.To4(); v4 != nil {
		return v4
	}
	return ip
}
