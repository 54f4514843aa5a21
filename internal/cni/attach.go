package cni

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/runcvm/runcvm/internal/network"
)

// Capabilities of CNI's conventions: what a plugin that names them is told beside its configuration.
const (
	capPorts = "portMappings"
	capIPs   = "ips"
	capMAC   = "mac"
)

// pluginTimeout bounds all plugins of one container's networks: they wait for each other's changes of the host's rules.
const pluginTimeout = time.Minute

// Request is how a container is to be connected.
type Request struct {
	// Networks are their names. The first one has the ports, addresses and hardware address that are asked for.
	Networks []string `json:"networks,omitempty"`
	Ports    []Port   `json:"ports,omitempty"`
	// IPs are addresses that the container is to have, at most one of each family.
	IPs []netip.Addr `json:"ips,omitempty"`
	MAC string       `json:"mac,omitempty"`
}

// Check says whether there are such networks that can do what is asked for.
func (r Request) Check(c Config) error {
	_, err := r.find(c)
	return err
}

func (r Request) find(c Config) ([]*Network, error) {
	var all []*Network
	var errs []error
	for i, name := range r.Networks {
		n, err := c.Find(name)
		if err == nil {
			err = n.checkPlugins(c.PluginDirs)
		}
		if err == nil && i == 0 {
			err = r.checkFirst(n)
		}
		if slices.ContainsFunc(all, func(other *Network) bool { return n != nil && other.Name == n.Name }) {
			err = fmt.Errorf("network %q is there twice", name)
		}
		all, errs = append(all, n), append(errs, err)
	}
	return all, errors.Join(errs...)
}

// checkPlugins wants the network's plugins to be there.
func (n *Network) checkPlugins(dirs []string) error {
	for _, p := range n.list.Plugins {
		if _, err := invoke.FindInPath(p.Network.Type, dirs); err != nil {
			return fmt.Errorf("network %q: the CNI plugin %s is in none of %s; install it (apt-get install containernetworking-plugins)",
				n.Name, p.Network.Type, strings.Join(dirs, ", "))
		}
	}
	return nil
}

func (r Request) checkFirst(n *Network) error {
	var errs []error
	for _, need := range []struct {
		asked      bool
		capability string
		what       string
	}{
		{len(r.Ports) > 0, capPorts, "publish ports: add the plugin portmap"},
		{len(r.IPs) > 0, capIPs, "give an address that is asked for"},
		{r.MAC != "", capMAC, "give a hardware address that is asked for"},
	} {
		if need.asked && !n.Can(need.capability) {
			errs = append(errs, fmt.Errorf("network %q cannot %s (no plugin of its conflist has the capability %s)",
				n.Name, need.what, need.capability))
		}
	}
	return errors.Join(errs...)
}

// Attachment is a container's place in one network.
type Attachment struct {
	Network string `json:"network"`
	// Interface is the container's, which has MAC and Addresses.
	Interface string         `json:"interface"`
	MAC       string         `json:"mac,omitempty"`
	Addresses []netip.Prefix `json:"addresses,omitempty"`
	Gateways  []netip.Addr   `json:"gateways,omitempty"`
	// Servers, Search and Options are what the network says of names.
	Servers []string `json:"servers,omitempty"`
	Search  []string `json:"search,omitempty"`
	Options []string `json:"options,omitempty"`
}

// Attach connects the namespace, with interfaces eth0, eth1 and so on, and publishes ports. It returns them with the host's side decided.
// After an error nothing is left.
func (s *Session) Attach(ctx context.Context, c Config, r Request) (_ []Attachment, _ []Port, err error) {
	networks, err := r.find(c)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, pluginTimeout)
	defer cancel()
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Detach(context.WithoutCancel(ctx)))
		}
	}()
	if len(r.Ports) > 0 {
		err := network.In(s.host, func() (err error) {
			s.reserved, r.Ports, err = reserve(ctx, r.Ports)
			return err
		})
		if err != nil {
			return nil, nil, err
		}
	}
	s.record.PluginDirs, s.record.Networks = c.PluginDirs, nil
	for i, n := range networks {
		j := joined{Interface: "eth" + strconv.Itoa(i), Config: n.list.Bytes}
		if i == 0 {
			j.Capabilities = r.capabilities()
		}
		s.record.Networks = append(s.record.Networks, j)
	}
	// Before anything is done: what has come of it is undone by this.
	if err := s.save(); err != nil {
		return nil, nil, err
	}
	var all []Attachment
	for i, n := range networks {
		a, err := s.join(ctx, n, &s.record.Networks[i], r)
		if err != nil {
			return nil, nil, fmt.Errorf("network %q: %w", n.Name, err)
		}
		all = append(all, a)
	}
	return all, r.Ports, nil
}

// capabilities are what the plugins are told that have a capability.
func (r Request) capabilities() map[string]any {
	c := map[string]any{}
	if len(r.IPs) > 0 {
		c[capIPs] = r.IPs
	}
	if r.MAC != "" {
		c[capMAC] = r.MAC
	}
	var ports []object
	for _, p := range r.Ports {
		m := object{"hostPort": p.HostPort, "containerPort": p.ContainerPort, "protocol": p.Protocol}
		if p.HostIP.IsValid() {
			m["hostIP"] = p.HostIP.String()
		}
		ports = append(ports, m)
	}
	if ports != nil {
		c[capPorts] = ports
	}
	return c
}

// join connects the namespace to one network.
func (s *Session) join(ctx context.Context, n *Network, j *joined, r Request) (Attachment, error) {
	a := Attachment{Network: n.Name, Interface: j.Interface}
	out, err := s.library(j).AddNetworkList(ctx, n.list, s.runtime(*j))
	if err != nil {
		return a, err
	}
	result, err := types100.NewResultFromResult(out)
	if err != nil {
		return a, fmt.Errorf("what its plugins say: %w", err)
	}
	for _, i := range result.Interfaces {
		if i.Name == j.Interface && i.Sandbox != "" {
			a.MAC = i.Mac
		}
	}
	for _, ip := range result.IPs {
		if addr, ok := netip.AddrFromSlice(ip.Address.IP); ok {
			ones, _ := ip.Address.Mask.Size()
			a.Addresses = append(a.Addresses, netip.PrefixFrom(addr.Unmap(), ones))
		}
		if addr, ok := netip.AddrFromSlice(ip.Gateway); ok {
			a.Gateways = append(a.Gateways, addr.Unmap())
		}
	}
	a.Servers, a.Search, a.Options = result.DNS.Nameservers, result.DNS.Search, result.DNS.Options
	if len(a.Search) == 0 && result.DNS.Domain != "" {
		a.Search = []string{result.DNS.Domain}
	}
	return a, r.verify(a, *j)
}

// verify says whether the network has given the addresses that were asked for: a plugin may name a capability and not heed it.
func (r Request) verify(a Attachment, j joined) error {
	if j.Capabilities == nil {
		return nil
	}
	for _, ip := range r.IPs {
		if !slices.ContainsFunc(a.Addresses, func(p netip.Prefix) bool { return p.Addr() == ip }) {
			return fmt.Errorf("it has not given the address %s but %v", ip, a.Addresses)
		}
	}
	return nil
}

// runtime is what the library is told of the container.
func (r record) runtime(j joined) *libcni.RuntimeConf {
	return &libcni.RuntimeConf{ContainerID: r.ID, NetNS: r.netns(), IfName: j.Interface, CapabilityArgs: j.Capabilities}
}
