package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"unsafe"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// tableName is of the tables that lead the namespace's connections to its loopback address to the monitor. They match 127.0.0.1 and
// ::1 alone: what others do with further addresses, as Docker with 127.0.0.11, is theirs.
const tableName = "runcvm"

// loopbackListeners are where the monitor takes connections to the namespace's loopback addresses, of any port.
type loopbackListeners struct {
	listeners []*net.TCPListener
}

// listenLoopback opens them and adds the tables.
func listenLoopback() (_ *loopbackListeners, err error) {
	l := &loopbackListeners{}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.close())
		}
	}()
	rules, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("nftables: %w", err)
	}
	for _, ip := range []net.IP{net.IPv4(127, 0, 0, 1).To4(), net.IPv6loopback} {
		listener, err := net.ListenTCP("tcp", &net.TCPAddr{IP: ip})
		if errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EAFNOSUPPORT) {
			continue // no IPv6
		}
		if err != nil {
			return nil, err
		}
		l.listeners = append(l.listeners, listener)
		addTable(rules, ip, uint16(listener.Addr().(*net.TCPAddr).Port))
	}
	if err := rules.Flush(); err != nil {
		return nil, fmt.Errorf("nftables (kernel options NF_TABLES, NFT_NAT, NFT_REDIR): %w", err)
	}
	return l, nil
}

func family(ip net.IP) nftables.TableFamily {
	if len(ip) == net.IPv4len {
		return nftables.TableFamilyIPv4
	}
	return nftables.TableFamilyIPv6
}

// addTable redirects TCP connections that begin in the namespace and go to ip to a port of the monitor's.
func addTable(rules *nftables.Conn, ip net.IP, port uint16) {
	offset := uint32(16) // of the destination in an IPv4 header
	if len(ip) == net.IPv6len {
		offset = 24
	}
	// Add, delete, add: one that an earlier monitor has left is replaced.
	table := &nftables.Table{Name: tableName, Family: family(ip)}
	rules.AddTable(table)
	rules.DelTable(table)
	rules.AddTable(table)
	accept := nftables.ChainPolicyAccept
	chain := rules.AddChain(&nftables.Chain{
		Name: "output", Table: table, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookOutput,
		Priority: nftables.ChainPriorityNATDest, Policy: &accept,
	})
	rules.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: uint32(len(ip))},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: ip},
		&expr.Immediate{Register: 1, Data: binaryutil.BigEndian.PutUint16(port)},
		&expr.Redir{RegisterProtoMin: 1, RegisterProtoMax: 1},
	}})
}

// close takes the tables away and then the listeners.
func (l *loopbackListeners) close() error {
	var errs []error
	for _, listener := range l.listeners {
		ip := listener.Addr().(*net.TCPAddr).IP
		if v4 := ip.To4(); v4 != nil {
			ip = v4
		}
		rules, err := nftables.New()
		if err == nil {
			rules.DelTable(&nftables.Table{Name: tableName, Family: family(ip)})
			err = ignoreGone(rules.Flush())
		}
		errs = append(errs, err, listener.Close())
	}
	return errors.Join(errs...)
}

// originalPort is the port that a redirected connection was meant for (SO_ORIGINAL_DST of linux/netfilter_ipv4.h, and
// IP6T_SO_ORIGINAL_DST of linux/netfilter_ipv6/ip6_tables.h, which have the same number).
func originalPort(c *net.TCPConn, ipv6 bool) (port uint16, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	level := unix.IPPROTO_IP
	if ipv6 {
		level = unix.IPPROTO_IPV6
	}
	var address unix.RawSockaddrInet6 // the port is at the same place as in the smaller RawSockaddrInet4
	size := uint32(unsafe.Sizeof(address))
	var errno unix.Errno
	err = raw.Control(func(fd uintptr) {
		_, _, errno = unix.Syscall6(unix.SYS_GETSOCKOPT, fd, uintptr(level), unix.SO_ORIGINAL_DST,
			uintptr(unsafe.Pointer(&address)), uintptr(unsafe.Pointer(&size)), 0)
	})
	if err == nil && errno != 0 {
		err = errno
	}
	if err != nil {
		return 0, fmt.Errorf("find what a connection was meant for: %w", err)
	}
	return binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&address.Port))[:]), nil
}
