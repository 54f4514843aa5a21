// Package network puts a microVM where a container's interfaces are: in a network namespace that has them already, with their
// addresses, made by Docker, CNI or a test.
//
// Beside each interface comes a TAP, and traffic control redirects every frame between the two, both ways: what arrives at the
// interface goes to the guest, and what the guest sends leaves by the interface. There is no bridge and no second address; the guest
// gets the interface's hardware address, addresses, routes, permanent neighbours and MTU, and answers ARP and neighbour
// discovery itself. The interface keeps its addresses too, for what the namespace's own stack does: see passToStack.
//
// Legal order: Bind in a process that is in the namespace, once its interfaces are there; then the VMM opens the TAPs of
// Binding.NICs; the guest's agent gets Binding.Guest; Serve once it has; Close when the VMM has ended. In runs a function in a
// namespace, so that a process can be started there.
package network

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/runcvm/runcvm/internal/cleanup"
	"github.com/runcvm/runcvm/internal/firecracker"
	"github.com/runcvm/runcvm/internal/guestapi"
)

const (
	// tapPrefix begins the names of TAPs: tapPrefix, the first 8 characters of the container's id, and _N for the Nth further one.
	tapPrefix = "b9fc_"
	// maxInterfaces is how many TAPs have a name of at most 15 bytes (IFNAMSIZ of linux/if.h without its NUL).
	maxInterfaces = 10
	// cleanupTimeout bounds the removal of what Bind has made.
	cleanupTimeout = 10 * time.Second
)

// Binding ties a guest to the interfaces of a network namespace.
type Binding struct {
	// NICs are the guest's interfaces, for the VMM.
	NICs []firecracker.NetworkInterface
	// Guest is what the agent is told.
	Guest *guestapi.NetworkRequest
	// Resolver says that Docker's resolver listens in the namespace, at 127.0.0.11.
	Resolver bool
	// Notes say what of the namespace the guest does not have, for the log.
	Notes []string

	undo cleanup.Stack
}

// Bind makes a TAP for each interface of the namespace that the calling process is in, and redirects traffic. id is the container's.
// What an earlier binding of the namespace has left is removed first. A namespace without interfaces has a binding without NICs.
// After an error nothing is left.
func Bind(ctx context.Context, id string) (_ *Binding, err error) {
	b := &Binding{}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("bind the container's network: %w", err), b.undo.Run(ctx, cleanupTimeout))
		}
	}()
	if err := sweep(); err != nil {
		return nil, err
	}
	found, err := readNamespace()
	if err != nil {
		return nil, err
	}
	b.Guest, b.Notes, b.Resolver = found.request, found.notes, found.resolver
	b.Guest.Resolver = b.Resolver
	if len(found.links) > maxInterfaces {
		return nil, fmt.Errorf("the namespace has %d interfaces, a guest can have %d: leave some networks out", len(found.links),
			maxInterfaces)
	}
	if b.Resolver {
		if err := b.reservePorts(); err != nil {
			return nil, err
		}
	}
	for n, link := range found.links {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := b.add(link, tapName(id, n), n); err != nil {
			return nil, fmt.Errorf("interface %s: %w", link.Attrs().Name, err)
		}
	}
	return b, nil
}

// Close removes what Bind has made. Call it where Bind was called: in the namespace.
func (b *Binding) Close() error {
	if err := b.undo.Run(context.Background(), cleanupTimeout); err != nil {
		return fmt.Errorf("unbind the container's network: %w", err)
	}
	return nil
}

// add binds one interface.
func (b *Binding) add(link netlink.Link, tap string, n int) error {
	attrs := link.Attrs()
	dev, err := newTAP(tap, attrs.MTU)
	if err != nil {
		return err
	}
	b.undo.AddFunc(func() error { return ignoreGone(netlink.LinkDel(dev)) })
	if err := b.redirect(link, dev, b.Guest.Interfaces[n]); err != nil {
		return err
	}
	// Last: not a frame of the guest is to reach the namespace's own stack.
	if err := netlink.LinkSetUp(dev); err != nil {
		return fmt.Errorf("set %s up: %w", tap, err)
	}
	b.NICs = append(b.NICs, firecracker.NetworkInterface{
		ID: fmt.Sprintf("nic%d", n), HostDevName: tap, GuestMAC: attrs.HardwareAddr.String(),
	})
	return nil
}

// tapName is the name of a container's TAP number n.
func tapName(id string, n int) string {
	name := tapPrefix + id[:min(len(id), 8)]
	if n > 0 {
		name += fmt.Sprintf("_%d", n)
	}
	return name
}

// newTAP makes a TAP as Firecracker opens it: one queue, frames with a virtio-net header, which carries checksums and segments
// that are still to be made. It has no address and speaks no protocol itself.
func newTAP(name string, mtu int) (netlink.Link, error) {
	tap := &netlink.Tuntap{
		LinkAttrs: netlink.LinkAttrs{Name: name}, Mode: netlink.TUNTAP_MODE_TAP, Queues: 1,
		Flags: netlink.TUNTAP_NO_PI | netlink.TUNTAP_VNET_HDR,
	}
	if err := netlink.LinkAdd(tap); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			//nolint:errorlint // only the text: the sentinel would be taken for the container's
			err = fmt.Errorf("/dev/net/tun is missing (%v); load the module tun", err)
		}
		return nil, fmt.Errorf("make TAP %s: %w", name, err)
	}
	for _, f := range tap.Fds {
		f.Close() // persistent: the VMM opens it by its name
	}
	err := setupTAP(tap, mtu)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("set TAP %s up: %w", name, err), netlink.LinkDel(tap))
	}
	return tap, nil
}

func setupTAP(tap *netlink.Tuntap, mtu int) error {
	link, err := netlink.LinkByName(tap.Name)
	if err != nil {
		return err
	}
	tap.Index = link.Attrs().Index
	if err := netlink.LinkSetMTU(tap, mtu); err != nil {
		return fmt.Errorf("MTU %d: %w", mtu, err)
	}
	if err := netlink.LinkSetARPOff(tap); err != nil {
		return err
	}
	// A host without IPv6 has no such file, and nothing to switch off.
	return ignoreGone(writeSysctl("ipv6/conf/"+tap.Name+"/disable_ipv6", "1"))
}

// sweep removes what a binding that was not closed has left: TAPs by their name, redirections by where they lead, chains by their table,
// ports that are reserved.
func sweep() error {
	links, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	ours := map[int]bool{}
	for _, l := range links {
		if strings.HasPrefix(l.Attrs().Name, tapPrefix) && l.Type() == "tuntap" {
			ours[l.Attrs().Index] = true
		}
	}
	for _, l := range links {
		if ours[l.Attrs().Index] || !redirectsTo(l, ours) {
			continue
		}
		if err := ignoreGone(netlink.QdiscDel(ingress(l))); err != nil {
			return fmt.Errorf("remove the redirection of %s: %w", l.Attrs().Name, err)
		}
	}
	for _, l := range links {
		if ours[l.Attrs().Index] {
			if err := ignoreGone(netlink.LinkDel(l)); err != nil {
				return fmt.Errorf("remove %s: %w", l.Attrs().Name, err)
			}
		}
	}
	// A kernel that has no such chains has none that are left; what else is wrong, guard will tell.
	_ = removeGuards()
	return releasePorts()
}
