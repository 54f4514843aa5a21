package guest

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/guestapi"
)

// Bounds of a NetworkRequest; see network.proto.
const (
	maxNICs       = 16
	maxAddresses  = 256
	maxRoutes     = 4096
	maxNeighbours = 4096
	minMTU        = 68 // RFC 791
	maxMTU        = 65535
	macSize       = 6
)

// checkNetwork finds what is wrong with a request before anything is changed.
func checkNetwork(r *guestapi.NetworkRequest) error {
	if len(r.Interfaces) > maxNICs || len(r.Routes) > maxRoutes || len(r.Neighbours) > maxNeighbours {
		return fmt.Errorf("%d interfaces, %d routes and %d neighbours are more than %d, %d and %d",
			len(r.Interfaces), len(r.Routes), len(r.Neighbours), maxNICs, maxRoutes, maxNeighbours)
	}
	if r.ReservedFrom > maxMTU {
		return fmt.Errorf("%d is no port", r.ReservedFrom)
	}
	names := map[string]bool{}
	for _, i := range r.Interfaces {
		if err := checkInterface(i); err != nil {
			return fmt.Errorf("interface %.32q: %w", i.Name, err)
		}
		if names[i.Name] {
			return fmt.Errorf("two interfaces are named %s", i.Name)
		}
		names[i.Name] = true
	}
	for _, n := range r.Neighbours {
		if !names[n.Interface] || !isIP(n.Ip) || len(n.Mac) != macSize {
			return fmt.Errorf("neighbour %s of interface %.32q is malformed", net.IP(n.Ip), n.Interface)
		}
	}
	for _, route := range r.Routes {
		if err := checkRoute(route, names); err != nil {
			return fmt.Errorf("route to %s/%d: %w", net.IP(route.Destination), route.Prefix, err)
		}
	}
	return nil
}

func checkInterface(i *guestapi.NetworkInterface) error {
	switch {
	case !isName(i.Name):
		return errors.New("no name of an interface")
	case strings.HasPrefix(i.Name, interimName):
		return fmt.Errorf("names that begin with %s are the agent's", interimName)
	case len(i.Mac) != macSize || i.Mac[0]&1 != 0:
		return fmt.Errorf("%s is no hardware address of an interface", net.HardwareAddr(i.Mac))
	case i.Mtu < minMTU || i.Mtu > maxMTU:
		return fmt.Errorf("MTU %d is not from %d to %d", i.Mtu, minMTU, maxMTU)
	case len(i.Addresses) > maxAddresses:
		return fmt.Errorf("%d addresses are more than %d", len(i.Addresses), maxAddresses)
	}
	for _, a := range i.Addresses {
		if !isIP(a.Ip) || int(a.Prefix) > 8*len(a.Ip) || !sameFamily(a.Ip, a.Peer) || !sameFamily(a.Ip, a.Broadcast) || a.Scope > 255 {
			return fmt.Errorf("address %s/%d is malformed", net.IP(a.Ip), a.Prefix)
		}
	}
	return nil
}

// isName says whether an interface may be called so: by what Linux takes, and as no directory of /proc/sys/net that is for all.
func isName(name string) bool {
	return name != "" && len(name) < unix.IFNAMSIZ && !slices.Contains([]string{".", "..", "lo", "all", "default"}, name) &&
		!strings.ContainsAny(name, "/:% \t\n\r\v\f\x00")
}

func checkRoute(r *guestapi.NetworkRoute, names map[string]bool) error {
	size := net.IPv4len
	if r.Ipv6 {
		size = net.IPv6len
	}
	for _, ip := range [][]byte{r.Destination, r.Gateway, r.Source} {
		if len(ip) != 0 && len(ip) != size {
			return errors.New("an address is of another family")
		}
	}
	switch {
	case int(r.Prefix) > 8*size || len(r.Destination) == 0 && r.Prefix != 0:
		return errors.New("no such prefix")
	case r.Interface != "" && !names[r.Interface]:
		return fmt.Errorf("there is no interface %.32q", r.Interface)
	case r.Scope > 255 || r.Mtu > maxMTU:
		return errors.New("scope or MTU out of range")
	}
	switch r.Kind {
	case unix.RTN_UNICAST:
		if r.Interface == "" {
			return errors.New("no interface")
		}
	case unix.RTN_BLACKHOLE, unix.RTN_UNREACHABLE, unix.RTN_PROHIBIT:
	default:
		return fmt.Errorf("kind %d", r.Kind)
	}
	return nil
}

func isIP(b []byte) bool { return len(b) == net.IPv4len || len(b) == net.IPv6len }

// sameFamily is also true without other.
func sameFamily(ip, other []byte) bool { return len(other) == 0 || len(other) == len(ip) }
