package tapguest

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/runcvm/runcvm/internal/cleanup"
	"github.com/runcvm/runcvm/internal/network"
)

// The host's addresses in a bed, and the length of their networks' prefixes.
var (
	Host4 = netip.MustParseAddr("10.77.0.1")
	Host6 = netip.MustParseAddr("fd77::1")
)

const (
	bits4 = 24
	bits6 = 64
)

// Bridge is the name of a bed's bridge.
const Bridge = "br0"

// Bed is a network as Docker makes one: a host, and containers with an interface, each in a namespace of its own.
type Bed struct {
	// Host is the host's namespace.
	Host *Namespace

	mtu int
	// bridge is nil where there is none.
	bridge *netlink.Bridge
	// containers are how many there are.
	containers int
	undo       cleanup.Stack
}

// NewBed makes a host, for interfaces of this MTU.
func NewBed(mtu int) (*Bed, error) {
	host, err := NewNamespace()
	if err != nil {
		return nil, err
	}
	b := &Bed{Host: host, mtu: mtu}
	b.undo.AddFunc(host.Close)
	return b, nil
}

// closeTimeout is more than the steps take, which wait for nothing.
const closeTimeout = time.Minute

// Close takes the bed away, after what was given to Undo.
func (b *Bed) Close() error { return b.undo.Run(context.Background(), closeTimeout) }

// Undo has Close call f, before what it was told of earlier.
func (b *Bed) Undo(f func() error) { b.undo.AddFunc(f) }

// AddBridge gives the host a bridge, which has its addresses and takes the interfaces of all containers that are added.
func (b *Bed) AddBridge() error {
	b.bridge = &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: Bridge, MTU: b.mtu}}
	if err := b.Host.Do(func() error { return netlink.LinkAdd(b.bridge) }); err != nil {
		return fmt.Errorf("make the bridge %s: %w", Bridge, err)
	}
	return Port{Namespace: b.Host, Name: Bridge, Addresses: prefixes(Host4, Host6)}.setUp()
}

// Container is a namespace whose interface eth0 leads to the bed's host, by which its default routes go.
type Container struct {
	*Namespace
	// Port is the other end of its eth0, at the host.
	Port string
	// V4 and V6 are its addresses.
	V4, V6 netip.Addr
}

// AddContainer adds a container. Without a bridge there can be one: the host's addresses are at the other end of its wire.
func (b *Bed) AddContainer() (*Container, error) {
	namespace, err := NewNamespace()
	if err != nil {
		return nil, err
	}
	b.undo.AddFunc(namespace.Close)
	b.containers++
	c := &Container{Namespace: namespace, Port: fmt.Sprintf("port%d", b.containers), V4: Host4, V6: Host6}
	for range b.containers {
		c.V4, c.V6 = c.V4.Next(), c.V6.Next()
	}
	host := Port{Namespace: b.Host, Name: c.Port}
	if b.bridge == nil {
		host.Addresses = prefixes(Host4, Host6)
	}
	err = Wire(b.mtu, host, Port{Namespace: namespace, Name: "eth0", Addresses: prefixes(c.V4, c.V6), Gateways: []netip.Addr{Host4, Host6}})
	if err != nil || b.bridge == nil {
		return c, err
	}
	if err := b.Host.Do(func() error { return AddToBridge(b.bridge, c.Port) }); err != nil {
		return nil, err
	}
	// It is ready with its first port.
	return c, Port{Namespace: b.Host, Name: Bridge}.await()
}

func prefixes(v4, v6 netip.Addr) []netip.Prefix {
	return []netip.Prefix{netip.PrefixFrom(v4, bits4), netip.PrefixFrom(v6, bits6)}
}

// AddToBridge makes an interface of the calling thread's namespace a port of a bridge, and sets it up.
func AddToBridge(bridge *netlink.Bridge, name string) error {
	port, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkSetMaster(port, bridge)
	}
	if err != nil {
		return fmt.Errorf("make %s a port of %s: %w", name, bridge.Name, err)
	}
	return setUp(name)
}

// ListenAsResolver has a socket where Docker's resolver has it, until it is closed.
func (n *Namespace) ListenAsResolver() (socket io.Closer, err error) {
	err = n.Do(func() error {
		socket, err = net.ListenPacket("udp4", "127.0.0.11:0")
		return err
	})
	return socket, err
}

// Binding is of a namespace's interfaces.
type Binding struct {
	*network.Binding
	at *Namespace
}

// Bind binds a namespace's interfaces, as the container with this id.
func (n *Namespace) Bind(ctx context.Context, id string) (*Binding, error) {
	b := &Binding{at: n}
	err := n.Do(func() (err error) {
		b.Binding, err = network.Bind(ctx, id)
		return err
	})
	return b, err
}

// Close removes what Bind has made.
func (b *Binding) Close() error { return b.at.Do(b.Binding.Close) }

// Attach gives a new guest the binding's interfaces.
func (b *Binding) Attach() (*Guest, error) {
	var taps []string
	for _, nic := range b.NICs {
		taps = append(taps, nic.HostDevName)
	}
	return Attach(b.at, taps, b.Guest)
}
