package cli

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/runcvm/runcvm/internal/cni"
	"github.com/runcvm/runcvm/internal/container"
	"github.com/runcvm/runcvm/internal/hostfiles"
	"github.com/runcvm/runcvm/internal/monitor"
)

// inspectedNetworks is NetworkSettings of docker inspect. The first network's addresses stand beside the list of all, as in Docker for
// its own bridge.
type inspectedNetworks struct {
	inspectedEndpoint
	Ports    map[string][]inspectedBinding
	Networks map[string]inspectedEndpoint
}

type inspectedEndpoint struct {
	IPAddress           string
	IPPrefixLen         int
	Gateway             string
	GlobalIPv6Address   string
	GlobalIPv6PrefixLen int
	IPv6Gateway         string
	MacAddress          string
}

type inspectedBinding struct {
	HostIP   string `json:"HostIp"`
	HostPort string
}

func networksOf(e *container.Entry) inspectedNetworks {
	n := inspectedNetworks{Ports: map[string][]inspectedBinding{}, Networks: map[string]inspectedEndpoint{}}
	for i, a := range e.Networks {
		point := endpointOf(a)
		if i == 0 {
			n.inspectedEndpoint = point
		}
		n.Networks[a.Network] = point
	}
	bind(n.Ports, e.Ports)
	return n
}

func bind(bindings map[string][]inspectedBinding, ports []cni.Port) {
	for _, p := range ports {
		b := inspectedBinding{HostIP: p.Address()}
		if p.HostPort != 0 {
			b.HostPort = strconv.Itoa(int(p.HostPort))
		}
		bindings[p.Spec()] = append(bindings[p.Spec()], b)
	}
}

func endpointOf(a cni.Attachment) inspectedEndpoint {
	p := inspectedEndpoint{MacAddress: a.MAC}
	for _, ip := range a.Addresses {
		if ip.Addr().Is4() {
			p.IPAddress, p.IPPrefixLen = ip.Addr().String(), ip.Bits()
		} else {
			p.GlobalIPv6Address, p.GlobalIPv6PrefixLen = ip.Addr().String(), ip.Bits()
		}
	}
	for _, g := range a.Gateways {
		if g.Is4() {
			p.Gateway = g.String()
		} else {
			p.IPv6Gateway = g.String()
		}
	}
	return p
}

// inspectedHostNetwork is what HostConfig of docker inspect says of networks: what was asked for.
type inspectedHostNetwork struct {
	NetworkMode     string
	PortBindings    map[string][]inspectedBinding
	PublishAllPorts bool
	DNS             []string `json:"Dns"`
	DNSSearch       []string `json:"DnsSearch"`
	DNSOptions      []string `json:"DnsOptions"`
	ExtraHosts      []string
}

func hostNetworkOf(req monitor.Request) inspectedHostNetwork {
	h := inspectedHostNetwork{
		NetworkMode: noNetwork, PortBindings: map[string][]inspectedBinding{}, PublishAllPorts: req.PublishAll,
		DNS: req.Names.Servers, DNSSearch: req.Names.Search, DNSOptions: req.Names.Options, ExtraHosts: extraHosts(req.Names.Hosts),
	}
	if len(req.Attach.Networks) > 0 {
		h.NetworkMode = req.Attach.Networks[0]
	} else if req.Namespace != "" {
		h.NetworkMode = "ns:" + req.Namespace
	}
	bind(h.PortBindings, req.Attach.Ports)
	return h
}

func extraHosts(hosts []hostfiles.Host) []string {
	var all []string
	for _, h := range hosts {
		all = append(all, h.Name+":"+h.Address)
	}
	return all
}

// portsOf is a container's published ports as docker ps shows them; ranges of ports that belong together are one.
func portsOf(ports []cni.Port) string {
	sorted := slices.SortedFunc(slices.Values(ports), func(a, b cni.Port) int {
		return strings.Compare(portKey(a), portKey(b))
	})
	var all []string
	for i := 0; i < len(sorted); {
		first, n := sorted[i], 1
		for i+n < len(sorted) && follows(first, sorted[i+n], n) {
			n++
		}
		all = append(all, portRange(first, n))
		i += n
	}
	return strings.Join(all, ", ")
}

// portKey orders ports: by protocol, the host's address, the container's port, the host's.
func portKey(p cni.Port) string {
	ip := p.HostIP
	if !ip.IsValid() {
		ip = netip.IPv4Unspecified()
	}
	return fmt.Sprintf("%s %v %5d %5d", p.Protocol, ip.As16(), p.ContainerPort, p.HostPort)
}

// follows says whether a port is the nth after the first of a range.
func follows(first, p cni.Port, n int) bool {
	return p.Protocol == first.Protocol && p.HostIP == first.HostIP &&
		int(p.ContainerPort) == int(first.ContainerPort)+n && int(p.HostPort) == int(first.HostPort)+n
}

func portRange(first cni.Port, n int) string {
	span := func(p uint16) string {
		if n == 1 {
			return strconv.Itoa(int(p))
		}
		return fmt.Sprintf("%d-%d", p, int(p)+n-1)
	}
	host := strings.TrimSuffix(first.Host(), strconv.Itoa(int(first.HostPort)))
	return host + span(first.HostPort) + "->" + span(first.ContainerPort) + "/" + first.Protocol
}
