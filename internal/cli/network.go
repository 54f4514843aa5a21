package cli

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/runcvm/runcvm/internal/cni"
	"github.com/runcvm/runcvm/internal/config"
	"github.com/runcvm/runcvm/internal/hostfiles"
	"github.com/runcvm/runcvm/internal/monitor"
)

// networkFlags are the flags that say what networks a container has, and by what it finds names.
type networkFlags struct {
	networks, nets  []string
	publish, expose []string
	publishAll      bool
	ip, ip6, mac    string
	dns, search     []string
	options, opts   []string
	hosts           []string
}

// noNetwork is the name by which a container has none.
const noNetwork = "none"

func (f *networkFlags) add(flags *pflag.FlagSet) {
	const network = "none, bridge, the name of a network that has a CNI conflist, or ns:PATH: the interfaces of a network namespace; " +
		"several: eth0, eth1, ... (default: the setting network.default, or bridge where ports or an address are asked for)"
	flags.StringArrayVar(&f.networks, "network", nil, network)
	flags.StringArrayVar(&f.nets, "net", nil, "as --network")
	flags.StringArrayVarP(&f.publish, "publish", "p", nil,
		"publish a port at one of the host's, [IP:][HOSTPORT:]PORT[/tcp|udp]; ports may be ranges")
	flags.BoolVarP(&f.publishAll, "publish-all", "P", false, "publish all ports that the image exposes, at free ports of the host")
	flags.StringArrayVar(&f.expose, "expose", nil, "further port, or range, for --publish-all")
	flags.StringVar(&f.ip, "ip", "", "IPv4 address in the first network (default: any that is free)")
	flags.StringVar(&f.ip6, "ip6", "", "IPv6 address in the first network")
	flags.StringVar(&f.mac, "mac-address", "", "hardware address in the first network")
	flags.StringArrayVar(&f.dns, "dns", nil, "name server (default: the network's, or the host's)")
	flags.StringArrayVar(&f.search, "dns-search", nil, "domain in which names are looked for; \".\": none")
	flags.StringArrayVar(&f.options, "dns-option", nil, "option of resolv.conf")
	flags.StringArrayVar(&f.opts, "dns-opt", nil, "as --dns-option")
	flags.StringArrayVar(&f.hosts, "add-host", nil, "entry NAME:ADDRESS of /etc/hosts; address host-gateway: the host's")
}

// apply puts what was given into the request, and lists what is wrong.
func (f *networkFlags) apply(r *monitor.Request, c *config.Config) []error {
	errs := f.applyPorts(r)
	errs = append(errs, f.applyAddresses(r)...)
	errs = append(errs, f.applyNames(r)...)
	errs = append(errs, f.applyNetworks(r, c)...)
	if len(r.Attach.Networks) > 0 && errors.Join(errs...) == nil {
		errs = append(errs, r.Attach.Check(cni.FromSettings(c)))
	}
	return errs
}

// applyNetworks decides which networks the container has, once it is known what is asked of them.
func (f *networkFlags) applyNetworks(r *monitor.Request, c *config.Config) (errs []error) {
	asked := len(r.Attach.Ports) > 0 || len(r.Attach.IPs) > 0 || r.Attach.MAC != "" || r.PublishAll
	networks := slices.Concat(f.networks, f.nets)
	if len(networks) == 0 {
		networks = []string{c.Network}
		if asked && c.Network == noNetwork {
			networks = []string{cni.Bridge}
		}
	}
	for _, name := range networks {
		errs = append(errs, applyNetwork(r, name))
	}
	if errors.Join(errs...) != nil {
		return errs
	}
	gateway := slices.ContainsFunc(r.Names.Hosts, func(h hostfiles.Host) bool { return h.Address == hostfiles.Gateway })
	switch name := networks[0]; {
	case len(networks) > 1 && len(r.Attach.Networks) != len(networks):
		errs = append(errs, fmt.Errorf("--network: none and ns:PATH exclude other networks (%s)", strings.Join(networks, ", ")))
	case len(r.Attach.Networks) == 0 && asked:
		errs = append(errs, fmt.Errorf("--network %s: no port can be published and no address be asked for; "+
			"take --network bridge, or a network of your own", name))
	case len(r.Attach.Networks) == 0 && r.Namespace == "" && gateway:
		errs = append(errs, fmt.Errorf("--add-host: without a network there is no %s; take --network bridge", hostfiles.Gateway))
	}
	return errs
}

// applyNetwork adds one network.
func applyNetwork(r *monitor.Request, name string) error {
	if path, ok := strings.CutPrefix(name, "ns:"); ok {
		if !filepath.IsAbs(path) {
			return fmt.Errorf("--network %q: ns: takes an absolute path", name)
		}
		r.Namespace = path
		return nil
	}
	switch kind, _, _ := strings.Cut(name, ":"); kind {
	case noNetwork:
		return nil
	case "":
		return errors.New("--network: write the name of a network, or none")
	case "host":
		return errors.New("--network host is not supported: a guest has a kernel, and so a network, of its own; publish its ports (-p)")
	case "container":
		return fmt.Errorf("--network %s is not supported: the guest's kernel cannot share another one's network; "+
			"give both containers the same network", name)
	}
	r.Attach.Networks = append(r.Attach.Networks, name)
	return nil
}

func (f *networkFlags) applyPorts(r *monitor.Request) (errs []error) {
	read := func(flag string, specs []string, to *[]cni.Port) {
		for _, s := range specs {
			ports, err := cni.ParsePort(s)
			*to, errs = append(*to, ports...), append(errs, flagError(flag, err))
		}
	}
	read("publish", f.publish, &r.Attach.Ports)
	read("expose", f.expose, &r.Expose)
	for _, p := range r.Expose {
		if p.HostPort != 0 || p.HostIP.IsValid() {
			errs = append(errs, fmt.Errorf("--expose %s: a port of the container alone; -p publishes it at one of the host", p.Spec()))
		}
	}
	r.PublishAll = f.publishAll
	return errs
}

func (f *networkFlags) applyAddresses(r *monitor.Request) (errs []error) {
	for _, a := range []struct {
		flag, value string
		is          func(netip.Addr) bool
	}{{"ip", f.ip, netip.Addr.Is4}, {"ip6", f.ip6, netip.Addr.Is6}} {
		if a.value == "" {
			continue
		}
		ip, err := netip.ParseAddr(a.value)
		if err != nil || !a.is(ip) || ip.Zone() != "" {
			errs = append(errs, fmt.Errorf("--%s %q: no such address", a.flag, a.value))
			continue
		}
		r.Attach.IPs = append(r.Attach.IPs, ip)
	}
	if f.mac != "" {
		mac, err := net.ParseMAC(f.mac)
		if err != nil || len(mac) != 6 || mac[0]&1 != 0 {
			errs = append(errs, fmt.Errorf("--mac-address %q: write an address of one interface, 02:00:00:12:34:56", f.mac))
		}
		r.Attach.MAC = mac.String()
	}
	return errs
}

func (f *networkFlags) applyNames(r *monitor.Request) (errs []error) {
	for _, s := range f.dns {
		if ip, err := netip.ParseAddr(s); err != nil || ip.Zone() != "" {
			errs = append(errs, fmt.Errorf("--dns %q: write the address of a name server", s))
		}
	}
	options := slices.Concat(f.options, f.opts)
	for flag, values := range map[string][]string{"dns-search": f.search, "dns-option": options} {
		for _, v := range values {
			if v == "" || strings.ContainsAny(v, " \t\n") {
				errs = append(errs, fmt.Errorf("--%s %q: one word", flag, v))
			}
		}
	}
	r.Names.Resolver = hostfiles.Resolver{Servers: f.dns, Search: f.search, Options: options}
	for _, s := range f.hosts {
		h, err := hostfiles.ParseHost(s)
		r.Names.Hosts, errs = append(r.Names.Hosts, h), append(errs, flagError("add-host", err))
	}
	return errs
}
