package network

import (
	"encoding/binary"
	"fmt"
	"net"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/guestapi"
)

// A guest is held to what its interface has: one that sends from another's hardware address would have whatever bridge the container is
// on lead that one's frames to itself, and one that claims another's IP address by ARP or by IPv6's neighbour discovery would do the
// same at all its neighbours, or fill their tables by claiming many. Traffic control redirects what is right. It has nothing that drops
// the rest (its action gact is not in every kernel): a chain behind it does, of netfilter's ingress hook of the TAP, which sees what was
// not redirected.

// guard makes a chain that drops every frame that a TAP takes and traffic control has left.
func (b *Binding) guard(tap netlink.Link) error {
	rules, err := nftables.New()
	if err != nil {
		return err
	}
	table := guardTable()
	rules.AddTable(table)
	drop := nftables.ChainPolicyDrop
	rules.AddChain(&nftables.Chain{
		Name: tap.Attrs().Name, Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookIngress,
		Priority: nftables.ChainPriorityFilter, Policy: &drop, Device: tap.Attrs().Name,
	})
	if err := rules.Flush(); err != nil {
		return err
	}
	b.undo.AddFunc(removeGuards)
	return nil
}

func guardTable() *nftables.Table {
	return &nftables.Table{Name: tableName, Family: nftables.TableFamilyNetdev}
}

// removeGuards removes all chains of guard.
func removeGuards() error {
	rules, err := nftables.New()
	if err != nil {
		return err
	}
	rules.DelTable(guardTable())
	return ignoreGone(rules.Flush())
}

// fromGuest are the filters of frames that a TAP takes. Where the host's kernel cannot drop what is wrong, all are redirected, and a
// note says so.
func (b *Binding) fromGuest(link, tap netlink.Link, nic *guestapi.NetworkInterface) []*netlink.U32 {
	out := mirred(link, netlink.TCA_EGRESS_REDIR, netlink.TC_ACT_STOLEN)
	if err := b.guard(tap); err != nil {
		b.Notes = append(b.Notes, fmt.Sprintf("the guest can send from other addresses than %s's: %v (kernel options NF_TABLES, "+
			"NF_TABLES_NETDEV, NETFILTER_INGRESS)", link.Attrs().Name, err))
		return []*netlink.U32{filter(tap, redirectAll, unix.ETH_P_ALL, nil, out)}
	}
	var all []*netlink.U32
	add := func(priority, protocol uint16, action netlink.Action, keys ...netlink.TcU32Key) {
		all = append(all, filter(tap, priority, protocol, keys, action))
	}
	guardClaims4(nic, out, add)
	guardClaims6(nic, out, add)
	// A tag would hide what is behind it, and that of VLAN 0 counts as none.
	add(guardVLAN, unix.ETH_P_8021Q, nil, netlink.TcU32Key{})
	add(guardServiceVLAN, unix.ETH_P_8021AD, nil, netlink.TcU32Key{})
	add(redirectAll, unix.ETH_P_ALL, out, from(nic.Mac)...)
	return all
}

// addFilterFunc adds a filter of frames with these keys. Those that match without an action are not redirected, and so dropped.
type addFilterFunc func(priority, protocol uint16, action netlink.Action, keys ...netlink.TcU32Key)

// guardClaims4 lets ARP pass whose sender is the interface.
func guardClaims4(nic *guestapi.NetworkInterface, out netlink.Action, add addFilterFunc) {
	// Without an address of its own yet, a machine asks from 0.0.0.0 whether others have it (RFC 5227).
	claims := [][]byte{net.IPv4zero.To4()}
	for _, a := range nic.Addresses {
		if len(a.Ip) == net.IPv4len {
			claims = append(claims, a.Ip)
		}
	}
	for _, ip := range claims {
		// The sender, of RFC 826: its hardware address at 8, its IP address at 14.
		sender := words(8, append(append([]byte{}, nic.Mac...), ip...))
		add(guardARP, unix.ETH_P_ARP, out, append(sender, from(nic.Mac)...)...)
	}
	add(guardARP, unix.ETH_P_ARP, nil, netlink.TcU32Key{})
}

// Types of ICMPv6 messages: RFC 4861 for neighbours, RFC 2710 and RFC 3810 for multicast listeners.
const (
	listenerReport      = 131
	listenerDone        = 132
	routerSolicitation  = 133
	routerAdvertisement = 134
	neighbourQuestion   = 135
	neighbourAnswer     = 136
	redirectMessage     = 137
	listenerReport2     = 143
)

// guardClaims6 lets questions for neighbours pass that come from the interface's addresses, and answers that are about them. A guest is no
// router, and asks for none. No header may come before such a message: it would hide it. Linux itself takes none of fragments (RFC 6980).
func guardClaims6(nic *guestapi.NetworkInterface, out netlink.Action, add addFilterFunc) {
	next := func(protocol uint32) netlink.TcU32Key {
		return netlink.TcU32Key{Mask: 0xff00, Val: protocol << 8, Off: 4}
	}
	kind := func(kind uint32, at int32) netlink.TcU32Key {
		return netlink.TcU32Key{Mask: 0xff000000, Val: kind << 24, Off: at}
	}
	pass := func(keys ...netlink.TcU32Key) {
		add(guardIPv6, unix.ETH_P_IPV6, out, append(keys, from(nic.Mac)...)...)
	}
	drop := func(keys ...netlink.TcU32Key) { add(guardIPv6, unix.ETH_P_IPV6, nil, keys...) }
	// Most of all frames: they need not be compared with the rest.
	pass(next(unix.IPPROTO_TCP))
	pass(next(unix.IPPROTO_UDP))

	const source, message, target = 8, 40, 48
	question := []netlink.TcU32Key{next(unix.IPPROTO_ICMPV6), kind(neighbourQuestion, message)}
	answer := []netlink.TcU32Key{next(unix.IPPROTO_ICMPV6), kind(neighbourAnswer, message)}
	pass(append(question, words(source, net.IPv6unspecified)...)...)
	for _, a := range nic.Addresses {
		if len(a.Ip) == net.IPv6len {
			pass(append(question, words(source, a.Ip)...)...)
			pass(append(answer, words(target, a.Ip)...)...)
		}
	}
	for k := uint32(routerSolicitation); k <= redirectMessage; k++ {
		drop(next(unix.IPPROTO_ICMPV6), kind(k, message))
	}

	// Who tells what groups it listens to does so behind a header of 8 bytes.
	alone := netlink.TcU32Key{Mask: 0xffff0000, Val: unix.IPPROTO_ICMPV6 << 24, Off: message}
	for _, k := range []uint32{listenerReport, listenerDone, listenerReport2} {
		pass(next(unix.IPPROTO_HOPOPTS), alone, kind(k, message+8))
	}
	for _, p := range []uint32{unix.IPPROTO_HOPOPTS, unix.IPPROTO_ROUTING, unix.IPPROTO_DSTOPTS} {
		drop(next(p))
	}
}

// from matches a frame's source. Offsets are from the network header, behind 14 bytes of Ethernet header.
func from(mac []byte) []netlink.TcU32Key { return words(-8, mac) }

// words matches bytes at an offset.
func words(offset int32, b []byte) []netlink.TcU32Key {
	var keys []netlink.TcU32Key
	for ; len(b) >= 4; b, offset = b[4:], offset+4 {
		keys = append(keys, netlink.TcU32Key{Mask: 0xffffffff, Val: binary.BigEndian.Uint32(b), Off: offset})
	}
	if len(b) == 2 {
		keys = append(keys, netlink.TcU32Key{Mask: 0xffff0000, Val: uint32(binary.BigEndian.Uint16(b)) << 16, Off: offset})
	}
	return keys
}
