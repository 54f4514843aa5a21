package network

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/guestapi"
)

func (f *found) readRoutes(names map[int]string) error {
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		if err := refuseEncapsulations(family, names); err != nil {
			return err
		}
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
			return refusedRoute(family, r.Dst, unsupported)
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
	case r.Tos != 0:
		return fmt.Sprintf("a type of service (%#x)", r.Tos)
	}
	return ""
}

func refusedRoute(family int, destination *net.IPNet, what string) error {
	to := "0.0.0.0/0"
	if destination != nil {
		to = destination.String()
	} else if family == netlink.FAMILY_V6 {
		to = "::/0"
	}
	return fmt.Errorf("route %s: %s is not supported in a guest; leave it out of the container's network namespace", to, what)
}

// refuseEncapsulations refuses routes of the guest's interfaces that put packets into others. The library that lists routes knows few of
// the kinds, and lists the others as if they were plain.
func refuseEncapsulations(family int, names map[int]string) error {
	request := nl.NewNetlinkRequest(unix.RTM_GETROUTE, unix.NLM_F_DUMP)
	request.AddData(&nl.RtMsg{RtMsg: unix.RtMsg{Family: uint8(family)}})
	messages, err := request.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWROUTE)
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	for _, m := range messages {
		header := nl.DeserializeRtMsg(m)
		attributes, err := nl.ParseRouteAttr(m[header.Len():])
		if err != nil {
			return fmt.Errorf("read a route: %w", err)
		}
		var destination *net.IPNet
		var ours, encapsulates bool
		for _, a := range attributes {
			switch a.Attr.Type {
			case unix.RTA_DST:
				destination = &net.IPNet{IP: a.Value, Mask: net.CIDRMask(int(header.Dst_len), 8*len(a.Value))}
			case unix.RTA_OIF:
				ours = names[int(binary.NativeEndian.Uint32(a.Value))] != ""
			case unix.RTA_ENCAP_TYPE:
				encapsulates = true
			}
		}
		if ours && encapsulates {
			return refusedRoute(family, destination, "an encapsulation")
		}
	}
	return nil
}
