package cni

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/docker/go-connections/nat"
	"golang.org/x/sys/unix"
)

// Port is one of a container's that the host publishes.
type Port struct {
	// HostIP is the host's address; not valid: all.
	HostIP netip.Addr `json:"host_ip,omitzero"`
	// HostPort is the host's port; 0: any that is free. Where HostEnd is not 0, the first one that is free from HostPort to HostEnd.
	HostPort uint16 `json:"host_port,omitempty"`
	HostEnd  uint16 `json:"host_end,omitempty"`
	// ContainerPort is the container's.
	ContainerPort uint16 `json:"container_port"`
	// Protocol is tcp or udp.
	Protocol string `json:"protocol"`
}

// Spec is the container's port as Docker writes it, 80/tcp.
func (p Port) Spec() string { return fmt.Sprintf("%d/%s", p.ContainerPort, p.Protocol) }

// Host is the host's side, 0.0.0.0:8080.
func (p Port) Host() string {
	return net.JoinHostPort(p.Address(), strconv.Itoa(int(p.HostPort)))
}

// Address is the host's address, 0.0.0.0 for all.
func (p Port) Address() string {
	if !p.HostIP.IsValid() {
		return netip.IPv4Unspecified().String()
	}
	return p.HostIP.String()
}

// ParsePort reads docker run's [[IP:][HOSTPORT]:]CONTAINERPORT[/PROTOCOL], where ports may be ranges.
func ParsePort(spec string) ([]Port, error) {
	mappings, err := nat.ParsePortSpec(spec)
	if err != nil {
		return nil, fmt.Errorf("%q: %w; write [IP:][HOSTPORT:]PORT[/tcp|udp]", spec, err)
	}
	var ports []Port
	for _, m := range mappings {
		p := Port{ContainerPort: uint16(m.Port.Int()), Protocol: m.Port.Proto()}
		if p.Protocol != "tcp" && p.Protocol != "udp" {
			return nil, fmt.Errorf("%q: %s cannot be published; tcp and udp can", spec, p.Protocol)
		}
		if p.ContainerPort == 0 {
			return nil, fmt.Errorf("%q: port 0 of a container cannot be published", spec)
		}
		if m.Binding.HostIP != "" {
			if p.HostIP, err = netip.ParseAddr(m.Binding.HostIP); err != nil {
				return nil, fmt.Errorf("%q: %w", spec, err)
			}
			if p.HostIP.Zone() != "" {
				return nil, fmt.Errorf("%q: an address of the host has no zone here", spec)
			}
			if p.HostIP.IsUnspecified() && p.HostIP.Is4() {
				p.HostIP = netip.Addr{}
			}
		}
		first, last, _ := strings.Cut(m.Binding.HostPort, "-")
		if p.HostPort, err = number(first); err == nil {
			p.HostEnd, err = number(last)
		}
		if err != nil {
			return nil, fmt.Errorf("%q: %w", spec, err)
		}
		ports = append(ports, p)
	}
	return ports, nil
}

func number(s string) (uint16, error) {
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(s, 10, 16)
	return uint16(n), err
}

// reservation keeps the host's ports from others, as the port of a connection or of a server of theirs. What the plugin portmap leads to
// the container does not come here; a connection that it does not lead there, as one to ::1, is refused.
type reservation struct {
	sockets []interface{ Close() error }
}

func (r *reservation) close() {
	for _, s := range r.sockets {
		_ = s.Close() // nothing was written there
	}
	r.sockets = nil
}

// reserve takes the ports in the network namespace of the calling thread and returns them with the host's side decided. Its errors
// name the port that somebody else has.
func reserve(ctx context.Context, ports []Port) (_ *reservation, taken []Port, err error) {
	r := &reservation{}
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	for _, p := range ports {
		last := cmp.Or(p.HostEnd, p.HostPort)
		for {
			host, err := r.take(ctx, p)
			if err == nil {
				p.HostPort, p.HostEnd = host, 0
				break
			}
			if !errors.Is(err, unix.EADDRINUSE) || p.HostPort >= last {
				return nil, nil, fmt.Errorf("publish %s at %s of the host: %w", p.Spec(), p.Host(), err)
			}
			p.HostPort++
		}
		taken = append(taken, p)
	}
	return r, taken, nil
}

// take opens the socket of one port, and returns the port.
func (r *reservation) take(ctx context.Context, p Port) (uint16, error) {
	host := ""
	if p.HostIP.IsValid() {
		host = p.HostIP.String()
	}
	address := net.JoinHostPort(host, strconv.Itoa(int(p.HostPort)))
	var lc net.ListenConfig
	if p.Protocol == "udp" {
		c, err := lc.ListenPacket(ctx, "udp", address)
		if err != nil {
			return 0, err
		}
		r.sockets = append(r.sockets, c)
		return c.LocalAddr().(*net.UDPAddr).AddrPort().Port(), nil
	}
	l, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return 0, err
	}
	r.sockets = append(r.sockets, l)
	go refuseAll(l)
	return l.Addr().(*net.TCPAddr).AddrPort().Port(), nil
}

// refuseAll resets connections until the listener is closed.
func refuseAll(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		_ = c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
}
