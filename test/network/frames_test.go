//go:build e2e

package network

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/test/network/tapguest"
)

// frame is what a hostile guest gives its network device: a frame with its virtio-net header, which the VMM hands on as it is.
type frame struct{ header, content []byte }

// plainHeader asks for nothing.
var plainHeader = make([]byte, 12)

// hostile are guests by what they send; frame number i is theirs to choose.
func hostile(n *neighbours) map[string]func(r *rand.Rand, i int) frame {
	own := n.guest.NICs[0].MAC
	other, host := macOf(n.t, n.other.Namespace, "eth0"), macOf(n.t, n.Host, tapguest.Bridge)
	plain := func(content []byte) frame { return frame{plainHeader, content} }
	return map[string]func(*rand.Rand, int) frame{
		"ARP questions for all addresses": func(_ *rand.Rand, i int) frame {
			return plain(arp(own, arpRequest, own, n.bound.V4.AsSlice(), []byte{10, 77, byte(i >> 8), byte(i)}))
		},
		"ARP from many addresses": func(_ *rand.Rand, i int) frame {
			return plain(arp(own, arpRequest, own, []byte{10, 77, 0, byte(i)}, tapguest.Host4.AsSlice()))
		},
		"ARP from another container's address": func(_ *rand.Rand, i int) frame {
			return plain(arp(own, uint16(1+i%2), own, n.other.V4.AsSlice(), tapguest.Host4.AsSlice()))
		},
		"ARP with another hardware address in it": func(*rand.Rand, int) frame {
			return plain(arp(own, arpRequest, other, n.bound.V4.AsSlice(), tapguest.Host4.AsSlice()))
		},
		"ARP behind a VLAN's tag": func(_ *rand.Rand, i int) frame {
			f := arp(own, arpRequest, own, n.other.V4.AsSlice(), tapguest.Host4.AsSlice())
			return plain(slices.Insert(f, 12, []byte{0x81, 0, 0, 0, 0x88, 0xa8, 0, 0}[4*(i%2):4+4*(i%2)]...))
		},
		"neighbour solicitations from many addresses": func(_ *rand.Rand, i int) frame {
			return plain(discovery(own, solicitation, many6(i), tapguest.Host6, nil))
		},
		"neighbour solicitations behind headers": func(_ *rand.Rand, i int) frame {
			header := []byte{unix.IPPROTO_HOPOPTS, unix.IPPROTO_DSTOPTS}[i%2]
			return plain(discovery(own, solicitation, many6(i), tapguest.Host6, []byte{header, unix.IPPROTO_ICMPV6, 0, 1, 4, 0, 0, 0, 0}))
		},
		"neighbour advertisements for others": func(_ *rand.Rand, i int) frame {
			return plain(discovery(own, advertisement, n.bound.V6, []netip.Addr{n.other.V6, tapguest.Host6}[i%2], nil))
		},
		"router advertisements": func(*rand.Rand, int) frame {
			return plain(discovery(own, router, netip.MustParseAddr("fe80::1"), tapguest.Host6, nil))
		},
		"another container's hardware address": func(*rand.Rand, int) frame {
			return plain(arp(other, arpRequest, own, n.bound.V4.AsSlice(), tapguest.Host4.AsSlice()))
		},
		"the host's hardware address": func(*rand.Rand, int) frame {
			return plain(arp(host, arpRequest, own, n.bound.V4.AsSlice(), n.other.V4.AsSlice()))
		},
		"many hardware addresses": func(r *rand.Rand, _ int) frame {
			mac := random(r, 6)
			mac[0] = mac[0]&^1 | 2
			return plain(arp(mac, arpRequest, mac, n.bound.V4.AsSlice(), tapguest.Host4.AsSlice()))
		},
		"frames of noise": func(r *rand.Rand, _ int) frame {
			return plain(random(r, r.IntN(65536)))
		},
		"noise after its own address": func(r *rand.Rand, _ int) frame {
			content := append(append(bytes.Clone(broadcast), own...), random(r, 2+r.IntN(3000))...)
			binary.BigEndian.PutUint16(content[12:], []uint16{0x0800, 0x0806, 0x86dd, 0x8100, 0x88a8, 0x88cc}[r.IntN(6)])
			return plain(content)
		},
		"noise for headers": func(r *rand.Rand, _ int) frame {
			header := random(r, 12)
			header[0] &= 7
			header[1] = []byte{0, 1, 3, 4, 5, 0x81, 0x84, header[1]}[r.IntN(8)] // the kinds of segments there are, and any
			return frame{header, udp(own, host, n.bound.V4.AsSlice(), tapguest.Host4.AsSlice(), r.IntN(60000))}
		},
		"headers that are cut off": func(_ *rand.Rand, i int) frame {
			return frame{plainHeader[:i%12], nil}
		},
		"frames that are cut off": func(_ *rand.Rand, i int) frame {
			content := udp(own, host, n.bound.V4.AsSlice(), tapguest.Host4.AsSlice(), 20)
			return plain(content[:i%len(content)])
		},
	}
}

var broadcast = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

const arpRequest = 1

// arp is a broadcast of RFC 826.
func arp(from net.HardwareAddr, operation uint16, mac net.HardwareAddr, ip, target []byte) []byte {
	b := append(bytes.Clone(broadcast), from...)
	b = append(b, 0x08, 0x06, 0, 1, 0x08, 0, 6, 4)
	b = binary.BigEndian.AppendUint16(b, operation)
	b = append(append(b, mac...), ip...)
	return append(append(b, make([]byte, 6)...), target...)
}

// udp is a datagram of this many bytes over IPv4, without a checksum.
func udp(from, to net.HardwareAddr, source, target []byte, size int) []byte {
	b := append(append([]byte{}, to...), from...)
	b = append(b, 0x08, 0x00, 0x45, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(20+8+size))
	b = append(b, 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0)
	b = append(append(b, source...), target...)
	binary.BigEndian.PutUint16(b[24:], fold(words(b[14:34])))
	b = append(b, 0, 9, 0, 9)
	b = binary.BigEndian.AppendUint16(b, uint16(8+size))
	return append(append(b, 0, 0), make([]byte, size)...)
}

// Types of messages of RFC 4861.
const (
	router        = 134
	solicitation  = 135
	advertisement = 136
)

// many6 is the ith address of the network.
func many6(i int) netip.Addr {
	b := tapguest.Host6.As16()
	binary.BigEndian.PutUint32(b[12:], uint32(i)|1<<24)
	return netip.AddrFrom16(b)
}

// discovery is a message of RFC 4861 to all machines. before is empty, or the number of a header with that header.
func discovery(from net.HardwareAddr, kind byte, source, target netip.Addr, before []byte) []byte {
	body := append([]byte{kind, 0, 0, 0, 0x20, 0, 0, 0}, target.AsSlice()...) // an advertisement that overrides
	option := byte(1)                                                         // the source's hardware address
	switch kind {
	case advertisement:
		option = 2 // the target's
	case router:
		body = []byte{kind, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0} // for half an hour
	}
	body = append(append(body, option, 1), from...)
	all := netip.MustParseAddr("ff02::1").AsSlice()
	// The checksum is of a pseudo header too: addresses, length, next header.
	sum := uint32(len(body)) + unix.IPPROTO_ICMPV6
	for _, part := range [][]byte{source.AsSlice(), all, body} {
		sum += words(part)
	}
	binary.BigEndian.PutUint16(body[2:], fold(sum))
	b := append([]byte{0x33, 0x33, 0, 0, 0, 1}, from...)
	b = append(b, 0x86, 0xdd, 0x60, 0, 0, 0)
	next := byte(unix.IPPROTO_ICMPV6)
	if len(before) > 0 {
		next, before = before[0], before[1:]
	}
	b = binary.BigEndian.AppendUint16(b, uint16(len(before)+len(body)))
	b = append(append(append(b, next, 255), source.AsSlice()...), all...)
	return append(append(b, before...), body...)
}

// words is the sum of 16-bit words, and fold their checksum (RFC 1071).
func words(b []byte) (sum uint32) {
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	return sum
}

func fold(sum uint32) uint16 {
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
