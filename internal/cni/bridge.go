package cni

import (
	"encoding/json"
	"net/netip"
)

// bridgeInterface is the host's interface of the network Bridge, and bridgeNetwork its name where plugins keep something by it: each
// data directory has the same bridge, and so the same addresses.
const (
	bridgeInterface = "runcvm0"
	bridgeNetwork   = "runcvm"
)

// cniVersion is of the conflist: what the plugins of Debian 12 speak.
const cniVersion = "1.0.0"

type object = map[string]any

// bridge is the conflist of the network Bridge.
func (c Config) bridge() []byte {
	var ranges [][]object
	var routes []object
	for _, subnet := range []netip.Prefix{c.BridgeIPv4, c.BridgeIPv6} {
		if !subnet.IsValid() {
			continue
		}
		everywhere := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if subnet.Addr().Is6() {
			everywhere = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
		ranges = append(ranges, []object{{"subnet": subnet.String()}})
		routes = append(routes, object{"dst": everywhere.String()})
	}
	b, err := json.Marshal(object{
		"cniVersion": cniVersion, "name": bridgeNetwork,
		"plugins": []object{
			{
				"type": "bridge", "bridge": bridgeInterface, "isGateway": true, "ipMasq": true,
				"hairpinMode":  true, // a container may reach its own published port
				"capabilities": object{capIPs: true, capMAC: true},
				"ipam":         object{"type": "host-local", "ranges": ranges, "routes": routes},
			},
			{"type": "portmap", "snat": true, "capabilities": object{capPorts: true}},
			// A host whose rule is to forward nothing, as Docker makes it, lets these through.
			{"type": "firewall"},
		},
	})
	if err != nil {
		panic(err) // strings and booleans
	}
	return b
}
