package monitor

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/runcvm/runcvm/internal/container"
	"github.com/runcvm/runcvm/internal/hostfiles"
	"github.com/runcvm/runcvm/internal/rootfs"
)

// Names is what a container finds names by, beside what its networks and the host say.
type Names struct {
	hostfiles.Resolver
	Hosts []hostfiles.Host `json:"hosts,omitempty"`
}

func (n Names) empty() bool {
	return len(n.Servers)+len(n.Search)+len(n.Options)+len(n.Hosts) == 0
}

// hostResolvers are where the host says by what it finds names. systemd-resolved writes its own address to the first, and where it
// asks itself to the second.
var hostResolvers = []string{"/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"}

// makesNames says whether the container gets files by which it finds names: those of a bundle are its maker's, and one without a network
// has the image's.
func (r Request) makesNames() bool {
	return r.Bundle == nil && (r.connected() || r.Namespace != "" || !r.Names.empty())
}

// writeNames writes the files for this start, and returns what is to be copied into the guest.
func (l *life) writeNames() ([]rootfs.Copy, error) {
	if !l.req.makesNames() || l.req.Maintain {
		return nil, nil
	}
	own, gateways := l.addresses()
	hosts, err := hostfiles.Hosts(l.prep.spec.Hostname, l.prep.spec.Domainname, own, l.req.Names.Hosts, gateways)
	if err != nil {
		return nil, err
	}
	resolver, err := l.resolver()
	if err != nil {
		return nil, err
	}
	dir := l.path(container.EtcDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("write the container's files of names: %w", err)
	}
	content := map[string]string{"hostname": l.prep.spec.Hostname + "\n", "hosts": hosts, "resolv.conf": resolver.String()}
	var copies []rootfs.Copy
	for _, name := range hostfiles.Files {
		path := filepath.Join(dir, name)
		// Users of the container that are not root read them.
		if err := errors.Join(os.WriteFile(path, []byte(content[name]), 0o644), os.Chmod(path, 0o644)); err != nil {
			return nil, fmt.Errorf("write the container's files of names: %w", err)
		}
		copies = append(copies, rootfs.Copy{Source: path, Name: name})
	}
	return copies, nil
}

// addresses are the container's own, and of its gateways, at most one of each family.
func (l *life) addresses() (own, gateways []netip.Addr) {
	if l.network == nil {
		return nil, nil
	}
	add := func(list *[]netip.Addr, b []byte) {
		ip, ok := netip.AddrFromSlice(b)
		if ok && !ip.IsLinkLocalUnicast() && !slices.ContainsFunc(*list, func(a netip.Addr) bool { return a.Is4() == ip.Is4() }) {
			*list = append(*list, ip)
		}
	}
	for _, i := range l.network.Guest.Interfaces {
		for _, a := range i.Addresses {
			add(&own, a.Ip)
		}
	}
	for _, a := range l.attachments {
		for _, g := range a.Gateways {
			add(&gateways, g.AsSlice())
		}
	}
	for _, r := range l.network.Guest.Routes {
		if len(r.Destination) == 0 {
			add(&gateways, r.Gateway)
		}
	}
	return own, gateways
}

// resolver is what the container asks for names: what its user says, then its networks, then the host.
func (l *life) resolver() (hostfiles.Resolver, error) {
	r := l.req.Names.Resolver
	for _, a := range l.attachments {
		r = r.Or(hostfiles.Resolver{Servers: a.Servers, Search: a.Search, Options: a.Options})
	}
	var host hostfiles.Resolver
	for _, path := range hostResolvers {
		b, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return r, fmt.Errorf("read what the host finds names by: %w", err)
		}
		if host = hostfiles.ParseResolvConf(string(b)).Reachable(); len(host.Servers) > 0 {
			break
		}
	}
	r = r.Or(host)
	if len(r.Servers) == 0 {
		l.logger.Warn("the container has no name server: the host's is at a loopback address, or there is none; --dns names one")
	}
	return r, nil
}
