package network

import (
	"cmp"
	"fmt"
	"net"
	"slices"
	"strings"

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

func (f *found) readRoutes(names map[int]string) error {
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		// With a filter by table 0 the routes of all tables come.
		routes, err := netlink.RouteListFiltered(family, &netlink.Route{}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return fmt.Errorf("list routes: %w", err)
		}
		for _, r := range routes {
			if err := f.addRoute(family, r, names); err != nil {
				return err
			}
		}
	}
	slices.SortStableFunc(f.request.Routes, func(a, b *guestapi.NetworkRoute) int { return cmp.Compare(rank(a), rank(b)) })
	return nil
}

// rank orders routes: a gateway is reached by a route without one.
func rank(r *guestapi.NetworkRoute) int {
	if len(r.Gateway) == 0 {
		return 0
	}
	return 1
}

// kinds are the types of routes that a guest gets.
var kinds = []int{unix.RTN_UNICAST, unix.RTN_BLACKHOLE, unix.RTN_UNREACHABLE, unix.RTN_PROHIBIT}

func (f *found) addRoute(family int, r netlink.Route, names map[int]string) error {
	ours := names[r.LinkIndex] != "" || len(r.MultiPath) > 0
	switch {
	case r.Table == unix.RT_TABLE_LOCAL, !slices.Contains(kinds, r.Type), r.Flags&unix.RTM_F_CLONED != 0:
		return nil // made by the kernel
	case r.Type == unix.RTN_UNICAST && !ours:
		return nil // of an interface that the guest does not have
	case r.Protocol == unix.RTPROT_KERNEL:
		return nil // comes with the address
	}
	if r.Dst == nil && r.Type == unix.RTN_UNICAST || r.Dst != nil {
		if unsupported := unsupported(r); unsupported != "" {
			return fmt.Errorf("route %s: %s is not supported in a guest", strings.TrimSpace(r.String()), unsupported)
		}
	}
	out := &guestapi.NetworkRoute{
		Interface: names[r.LinkIndex], Gateway: short(r.Gw), Source: short(r.Src), Metric: uint32(r.Priority), Scope: uint32(r.Scope),
		Kind: uint32(r.Type), OnLink: r.Flags&unix.RTNH_F_ONLINK != 0, Mtu: uint32(r.MTU), Ipv6: family == netlink.FAMILY_V6,
	}
	if r.Dst != nil {
		ones, _ := r.Dst.Mask.Size()
		if ones > 0 {
			out.Destination, out.Prefix = short(r.Dst.IP), uint32(ones)
		}
	}
	f.request.Routes = append(f.request.Routes, out)
	return nil
}

// unsupported names what of a route a guest cannot have.
func unsupported(r netlink.Route) string {
	switch {
	case r.Table != unix.RT_TABLE_MAIN:
		return fmt.Sprintf("routing table %d", r.Table)
	case len(r.MultiPath) > 0:
		return "a choice of several gateways"
	case r.Via != nil:
		return "a gateway of another family"
	case r.Encap != nil || r.MPLSDst != nil || r.NewDst != nil:
		return "an encapsulation"
	}
	return ""
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
