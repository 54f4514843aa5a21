package guest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/runcvm/runcvm/internal/guestapi"
)

const (
	// nicTimeout bounds the wait for the drivers to find what the VMM has given the guest since before the boot.
	nicTimeout = 10 * time.Second
	nicPause   = 5 * time.Millisecond
	// interimName begins the names that interfaces have while names are exchanged.
	interimName = "rcvm-nic"
	// genNone of addr_gen_mode: the kernel makes no link-local address (IN6_ADDR_GEN_MODE_NONE of linux/if_link.h).
	genNone = "1"
)

// networkService answers the calls of guestapi's Network.
type networkService struct{ a *agent }

var _ guestapi.NetworkService = (*networkService)(nil)

// Configure sets the guest's network up, by the host's wish alone: what is not in the request, the interfaces do not have.
func (s *networkService) Configure(ctx context.Context, r *guestapi.NetworkRequest) (*guestapi.NetworkResponse, error) {
	if err := checkNetwork(r); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if err := s.a.state.beginNetwork(); err != nil {
		return nil, err
	}
	if err := s.a.boot.wait(ctx); err != nil {
		return nil, err
	}
	links, err := findLinks(ctx, r.Interfaces)
	if err != nil {
		return nil, err
	}
	if err := nameLinks(links, r.Interfaces); err != nil {
		return nil, err
	}
	byName := map[string]netlink.Link{}
	for n, i := range r.Interfaces {
		if err := setupLink(links[n], i); err != nil {
			return nil, fmt.Errorf("interface %s: %w", i.Name, err)
		}
		byName[i.Name] = links[n]
	}
	if err := addNeighbours(byName, r.Neighbours); err != nil {
		return nil, err
	}
	if err := addRoutes(byName, r.Routes); err != nil {
		return nil, err
	}
	if r.Resolver {
		if err := startResolver(s.a.listen); err != nil {
			return nil, err
		}
	}
	if r.ReservedFrom != 0 {
		if err := writeNetSysctl("ipv4/ip_local_reserved_ports", fmt.Sprintf("%d-65535", r.ReservedFrom)); err != nil {
			return nil, err
		}
	}
	slog.Debug("network configured", "interfaces", len(r.Interfaces), "routes", len(r.Routes))
	return &guestapi.NetworkResponse{}, nil
}

// findLinks returns the guest's interface for each of these, by its hardware address. The driver is loaded if need be.
func findLinks(ctx context.Context, wanted []*guestapi.NetworkInterface) ([]netlink.Link, error) {
	if len(wanted) == 0 {
		return nil, nil
	}
	if links, missing, err := linksByMAC(wanted); err != nil || missing == nil {
		return links, err
	}
	if _, err := modprobe(ctx, "virtio_net"); err != nil && !errors.Is(err, errNoModule) && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("load the driver of network interfaces: %w", err)
	}
	deadline := time.Now().Add(nicTimeout)
	for {
		links, missing, err := linksByMAC(wanted)
		if err != nil || missing == nil {
			return links, err
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("interface %s: the guest has none with the address %s (kernel option VIRTIO_NET)",
				missing.Name, net.HardwareAddr(missing.Mac))
		}
		time.Sleep(nicPause)
	}
}

// linksByMAC is one look; missing is the first that is not there.
func linksByMAC(wanted []*guestapi.NetworkInterface) (found []netlink.Link, missing *guestapi.NetworkInterface, err error) {
	all, err := netlink.LinkList()
	if err != nil {
		return nil, nil, fmt.Errorf("list interfaces: %w", err)
	}
	byMAC := map[string]netlink.Link{}
	for _, l := range all {
		byMAC[l.Attrs().HardwareAddr.String()] = l
	}
	for _, w := range wanted {
		l := byMAC[net.HardwareAddr(w.Mac).String()]
		if l == nil {
			return nil, w, nil
		}
		found = append(found, l)
	}
	return found, nil, nil
}

// nameLinks gives interfaces their names, which others of them may have at the moment.
func nameLinks(links []netlink.Link, wanted []*guestapi.NetworkInterface) error {
	rename := func(l netlink.Link, name string) error {
		if err := netlink.LinkSetName(l, name); err != nil {
			return fmt.Errorf("name interface %s %s: %w", l.Attrs().Name, name, err)
		}
		return nil
	}
	var waiting []int
	for n, l := range links {
		if l.Attrs().Name == wanted[n].Name {
			continue
		}
		waiting = append(waiting, n)
		if err := rename(l, interimName+strconv.Itoa(n)); err != nil {
			return err
		}
	}
	for _, n := range waiting {
		if err := rename(links[n], wanted[n].Name); err != nil {
			return err
		}
	}
	return nil
}

func setupLink(l netlink.Link, i *guestapi.NetworkInterface) error {
	if err := netlink.LinkSetMTU(l, int(i.Mtu)); err != nil {
		return fmt.Errorf("MTU %d: %w", i.Mtu, err)
	}
	if err := setupIPv6(i); err != nil {
		return err
	}
	if err := netlink.LinkSetUp(l); err != nil {
		return fmt.Errorf("set up: %w", err)
	}
	for _, a := range i.Addresses {
		if len(a.Ip) == net.IPv6len && !i.Ipv6 {
			continue
		}
		if err := netlink.AddrReplace(l, address(a)); err != nil {
			return fmt.Errorf("address %s/%d: %w", net.IP(a.Ip), a.Prefix, err)
		}
	}
	return nil
}

// setupIPv6 sets what must be so before the interface is up: all addresses come from the host, none of the kernel or a router,
// and none is looked for elsewhere before it is used, since the host's interface has it already.
func setupIPv6(i *guestapi.NetworkInterface) error {
	conf := "ipv6/conf/" + i.Name + "/"
	off := "0"
	if !i.Ipv6 {
		off = "1"
	}
	err := writeNetSysctl(conf+"disable_ipv6", off)
	if errors.Is(err, fs.ErrNotExist) {
		if i.Ipv6 {
			return errors.New("the guest's kernel has no IPv6 (option IPV6), which the host's interface has")
		}
		return nil
	}
	return errors.Join(err, writeNetSysctl(conf+"addr_gen_mode", genNone), writeNetSysctl(conf+"accept_ra", "0"),
		writeNetSysctl(conf+"accept_dad", "0"))
}

func address(a *guestapi.NetworkAddress) *netlink.Addr {
	bits := 8 * len(a.Ip)
	mask := net.CIDRMask(int(a.Prefix), bits)
	out := &netlink.Addr{IPNet: &net.IPNet{IP: a.Ip, Mask: mask}, Scope: int(a.Scope), Broadcast: a.Broadcast}
	if len(a.Peer) > 0 {
		out.IPNet.Mask, out.Peer = net.CIDRMask(bits, bits), &net.IPNet{IP: a.Peer, Mask: mask}
	}
	if a.NoPrefixRoute {
		out.Flags |= unix.IFA_F_NOPREFIXROUTE
	}
	if len(a.Ip) == net.IPv6len {
		out.Flags |= unix.IFA_F_NODAD
		out.Broadcast = nil
	} else if len(a.Broadcast) == 0 {
		out.Broadcast = net.IPv4zero // without it the library makes one up
	}
	return out
}

func addNeighbours(links map[string]netlink.Link, neighbours []*guestapi.NetworkNeighbour) error {
	for _, n := range neighbours {
		err := netlink.NeighSet(&netlink.Neigh{
			LinkIndex: links[n.Interface].Attrs().Index, State: netlink.NUD_PERMANENT, IP: n.Ip, HardwareAddr: n.Mac,
		})
		if err != nil {
			return fmt.Errorf("neighbour %s of %s: %w", net.IP(n.Ip), n.Interface, err)
		}
	}
	return nil
}

func addRoutes(links map[string]netlink.Link, routes []*guestapi.NetworkRoute) error {
	for _, r := range routes {
		if err := netlink.RouteReplace(route(r, links)); err != nil {
			to := "default"
			if len(r.Destination) > 0 {
				to = fmt.Sprintf("%s/%d", net.IP(r.Destination), r.Prefix)
			}
			return fmt.Errorf("route %s of interface %q: %w", to, r.Interface, err)
		}
	}
	return nil
}

func route(r *guestapi.NetworkRoute, links map[string]netlink.Link) *netlink.Route {
	out := &netlink.Route{
		Gw: r.Gateway, Src: r.Source, Priority: int(r.Metric), Scope: netlink.Scope(r.Scope), Type: int(r.Kind), MTU: int(r.Mtu),
		Protocol: unix.RTPROT_STATIC, Family: netlink.FAMILY_V4,
	}
	size := net.IPv4len
	if r.Ipv6 {
		out.Family, size = netlink.FAMILY_V6, net.IPv6len
	}
	if r.Interface != "" {
		out.LinkIndex = links[r.Interface].Attrs().Index
	}
	out.Dst = &net.IPNet{IP: make(net.IP, size), Mask: net.CIDRMask(int(r.Prefix), 8*size)}
	copy(out.Dst.IP, r.Destination)
	if r.OnLink {
		out.Flags |= int(netlink.FLAG_ONLINK)
	}
	return out
}

func writeNetSysctl(key, value string) error {
	if err := os.WriteFile(sysctlDir+"/net/"+key, []byte(value), 0); err != nil {
		return fmt.Errorf("kernel parameter %s: %w", key, err)
	}
	return nil
}
