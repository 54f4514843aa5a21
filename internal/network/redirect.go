package network

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/guestapi"
)

// Priorities of the filters at an interface, and at a TAP: the lowest number is asked first, and all filters of one priority have one
// protocol.
const (
	passIPv4 = iota + 1
	passIPv6
	mirrorARP
	guardARP
	guardIPv6
	guardVLAN
	guardServiceVLAN
	redirectAll
)

// The ports that are the namespace's own where it has a resolver: a power of two of them, so that one mask finds them. A guest takes no
// port of these for its own connections, and by itself none lies in Linux's default range (32768 to 60999).
const (
	reservedFrom = 0xf000
	reservedMask = 0xf000
)

// ingress is the qdisc at which an interface's incoming frames are looked at, before any protocol is.
func ingress(l netlink.Link) *netlink.Ingress {
	return &netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: l.Attrs().Index, Parent: netlink.HANDLE_INGRESS, Handle: netlink.MakeHandle(0xffff, 0),
	}}
}

// redirect leads the frames that arrive at one end out at the other, both ways. Where there is a resolver, frames of the
// namespace's own connections stay there.
func (b *Binding) redirect(link, tap netlink.Link, nic *guestapi.NetworkInterface) error {
	for _, l := range []netlink.Link{tap, link} {
		err := netlink.QdiscAdd(ingress(l))
		if errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("%s has an ingress qdisc already, which somebody else may need: remove it (tc qdisc del dev %[1]s ingress)",
				l.Attrs().Name)
		}
		if err != nil {
			return fmt.Errorf("add an ingress qdisc to %s: %w", l.Attrs().Name, kernelLacks(err, "NET_SCH_INGRESS"))
		}
		b.undo.AddFunc(func() error { return ignoreGone(netlink.QdiscDel(ingress(l))) })
	}
	for _, f := range b.fromGuest(link, tap, nic) {
		if err := addFilter(f); err != nil {
			return err
		}
	}
	if b.Resolver {
		for _, f := range passToStack(link, tap) {
			if err := addFilter(f); err != nil {
				return err
			}
		}
	}
	return addFilter(filter(link, redirectAll, unix.ETH_P_ALL, nil, mirred(tap, netlink.TCA_EGRESS_REDIR, netlink.TC_ACT_STOLEN)))
}

// passToStack lets the namespace's own stack have the answers to what it sends: those to its reserved ports, alone; and what it
// needs to find its neighbours, which the guest gets as well. A match without an action ends the search, and the frame goes on.
func passToStack(link, tap netlink.Link) []*netlink.U32 {
	both := mirred(tap, netlink.TCA_EGRESS_MIRROR, netlink.TC_ACT_OK)
	var out []*netlink.U32
	for _, proto := range []uint32{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		out = append(out,
			filter(link, passIPv4, unix.ETH_P_IP, []netlink.TcU32Key{
				{Mask: 0xff000000, Val: 0x45000000, Off: 0},      // no options: the port is at a fixed place
				{Mask: 0x00001fff, Val: 0, Off: 4},               // the first fragment or the only one
				{Mask: 0x00ff0000, Val: proto << 16, Off: 8},     // protocol
				{Mask: reservedMask, Val: reservedFrom, Off: 20}, // destination port
			}, nil),
			filter(link, passIPv6, unix.ETH_P_IPV6, []netlink.TcU32Key{
				{Mask: 0x0000ff00, Val: proto << 8, Off: 4}, // next header
				{Mask: reservedMask, Val: reservedFrom, Off: 40},
			}, nil))
	}
	const reply = 2 // operation of RFC 826
	out = append(out, filter(link, mirrorARP, unix.ETH_P_ARP, []netlink.TcU32Key{{Mask: 0x0000ffff, Val: reply, Off: 4}}, both))
	for _, kind := range []uint32{134, 136} { // router and neighbour advertisements, RFC 4861
		out = append(out, filter(link, passIPv6, unix.ETH_P_IPV6, []netlink.TcU32Key{
			{Mask: 0x0000ff00, Val: unix.IPPROTO_ICMPV6 << 8, Off: 4},
			{Mask: 0xff000000, Val: kind << 24, Off: 40},
		}, both))
	}
	return out
}

// filter matches the frames of a protocol that have all keys; offsets are from the network header. Without keys it matches all.
func filter(at netlink.Link, priority, protocol uint16, keys []netlink.TcU32Key, action netlink.Action) *netlink.U32 {
	f := &netlink.U32{FilterAttrs: netlink.FilterAttrs{
		LinkIndex: at.Attrs().Index, Parent: netlink.MakeHandle(0xffff, 0), Priority: priority, Protocol: protocol,
	}}
	if keys != nil {
		f.Sel = &netlink.TcU32Sel{Flags: netlink.TC_U32_TERMINAL, Keys: keys}
	}
	if action != nil {
		f.Actions = []netlink.Action{action}
	}
	return f
}

func mirred(to netlink.Link, how netlink.MirredAct, then netlink.TcAct) netlink.Action {
	return &netlink.MirredAction{
		ActionAttrs: netlink.ActionAttrs{Action: then}, MirredAction: how, Ifindex: to.Attrs().Index,
	}
}

func addFilter(f *netlink.U32) error {
	if err := netlink.FilterAdd(f); err != nil {
		return fmt.Errorf("add a filter: %w", kernelLacks(err, "NET_CLS_U32, NET_CLS_ACT and NET_ACT_MIRRED"))
	}
	return nil
}

// kernelLacks names the options of the kernel that an error of traffic control asks for.
func kernelLacks(err error, options string) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.EOPNOTSUPP) {
		//nolint:errorlint // only the text: the sentinel would be taken for the container's
		return fmt.Errorf("%v: the host's kernel needs %s", err, options)
	}
	return err
}

// redirectsTo says whether one of an interface's filters leads to one of these.
func redirectsTo(l netlink.Link, targets map[int]bool) bool {
	filters, err := netlink.FilterList(l, netlink.MakeHandle(0xffff, 0))
	if err != nil {
		return false // no ingress qdisc
	}
	for _, f := range filters {
		u, ok := f.(*netlink.U32)
		if !ok {
			continue
		}
		for _, a := range u.Actions {
			// A redirection whose target is gone has index 0.
			if m, ok := a.(*netlink.MirredAction); ok && (targets[m.Ifindex] || m.Ifindex == 0) {
				return true
			}
		}
	}
	return false
}

// ignoreGone is for what is to be removed: that it is gone is no error.
func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EINVAL) {
		return nil
	}
	return err
}
