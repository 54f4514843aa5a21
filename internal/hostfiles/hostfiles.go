// Package hostfiles makes the files of a container's /etc by which it finds names: hosts, hostname and resolv.conf, by Docker's rules.
//
// All functions are pure.
package hostfiles

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Files are the names of the files in /etc.
var Files = []string{"hostname", "hosts", "resolv.conf"}

// Gateway is, in place of an address, the host as the container reaches it.
const Gateway = "host-gateway"

// Host is a further entry of hosts.
type Host struct {
	Name string `json:"name"`
	// Address is one of IPv4 or IPv6, or Gateway.
	Address string `json:"address"`
}

// ParseHost reads docker run's NAME:ADDRESS or NAME=ADDRESS.
func ParseHost(s string) (Host, error) {
	i := strings.IndexAny(s, ":=")
	if i <= 0 || strings.ContainsAny(s[:i], " \t\n#") {
		return Host{}, fmt.Errorf("%q: write NAME:ADDRESS", s)
	}
	h := Host{s[:i], s[i+1:]}
	if h.Address == Gateway {
		return h, nil
	}
	if inside, ok := strings.CutPrefix(h.Address, "["); ok {
		h.Address = strings.TrimSuffix(inside, "]")
	}
	if ip, err := netip.ParseAddr(h.Address); err != nil || ip.Zone() != "" {
		return Host{}, fmt.Errorf("%q: %q is neither an address nor %s", s, h.Address, Gateway)
	}
	return h, nil
}

const loopback = `127.0.0.1	localhost
::1	localhost ip6-localhost ip6-loopback
fe00::	ip6-localnet
ff00::	ip6-mcastprefix
ff02::1	ip6-allnodes
ff02::2	ip6-allrouters
`

// Hosts is /etc/hosts of a container with these addresses. An entry whose address is Gateway has one line for each gateway.
func Hosts(hostname, domainname string, own []netip.Addr, further []Host, gateways []netip.Addr) (string, error) {
	var b strings.Builder
	b.WriteString(loopback)
	for _, h := range further {
		if h.Address != Gateway {
			fmt.Fprintf(&b, "%s\t%s\n", h.Address, h.Name)
			continue
		}
		if len(gateways) == 0 {
			return "", fmt.Errorf("--add-host %s:%s: the container's networks have no gateway; write an address", h.Name, Gateway)
		}
		for _, g := range gateways {
			fmt.Fprintf(&b, "%s\t%s\n", g, h.Name)
		}
	}
	names := hostname
	if domainname != "" {
		names = hostname + "." + domainname + " " + hostname
	}
	for _, ip := range own {
		fmt.Fprintf(&b, "%s\t%s\n", ip, names)
	}
	return b.String(), nil
}

// Resolver is what resolv.conf says.
type Resolver struct {
	// Servers are addresses of name servers.
	Servers []string `json:"servers,omitempty"`
	// Search are domains; a single "." is none.
	Search []string `json:"search,omitempty"`
	// Options are those of resolv.conf(5).
	Options []string `json:"options,omitempty"`
}

// ParseResolvConf reads a resolv.conf. As for resolvers, the last of several lists of domains counts.
func ParseResolvConf(text string) Resolver {
	var r Resolver
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		switch f[0] {
		case "nameserver":
			r.Servers = append(r.Servers, f[1])
		case "search", "domain":
			r.Search = f[1:]
		case "options":
			r.Options = append(r.Options, f[1:]...)
		}
	}
	return r
}

// Reachable is the same without name servers at a loopback address, which is the host's own.
func (r Resolver) Reachable() Resolver {
	r.Servers = slices.DeleteFunc(slices.Clone(r.Servers), func(s string) bool {
		ip, err := netip.ParseAddr(s)
		return err == nil && ip.IsLoopback()
	})
	return r
}

// Or takes of others what r does not say, the first of them first.
func (r Resolver) Or(others ...Resolver) Resolver {
	for _, o := range others {
		for _, list := range []struct{ to, from *[]string }{{&r.Servers, &o.Servers}, {&r.Search, &o.Search}, {&r.Options, &o.Options}} {
			if len(*list.to) == 0 {
				*list.to = *list.from
			}
		}
	}
	return r
}

// String is the file.
func (r Resolver) String() string {
	var b strings.Builder
	for _, s := range r.Servers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	if len(r.Search) > 0 && !slices.Equal(r.Search, []string{"."}) {
		fmt.Fprintf(&b, "search %s\n", strings.Join(r.Search, " "))
	}
	if len(r.Options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(r.Options, " "))
	}
	return b.String()
}
