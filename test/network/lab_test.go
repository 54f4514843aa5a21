//go:build e2e

package network_test

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/network"
	"github.com/runcvm/runcvm/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// limit bounds what a test waits for at all, on a machine that is busy.
const limit = 2 * time.Minute

// lab is some network namespaces: "net", a neighbour with a bridge, and others, each with an eth0 on it, as containers' are.
type lab struct {
	t      *testing.T
	prefix string
}

// newLab makes net, which is 10.99.0.1 and fd99::1.
func newLab(t *testing.T) *lab {
	l := &lab{t, fmt.Sprintf("rv%06x-", rand.Uint32N(1<<24))}
	l.add("net")
	for _, command := range []string{"link add br0 type bridge", "addr add 10.99.0.1/24 dev br0", "addr add fd99::1/64 dev br0 nodad", "link set br0 up"} {
		l.ip("net", strings.Fields(command)...)
	}
	return l
}

// add makes an empty namespace, with its loopback up.
func (l *lab) add(name string) {
	l.t.Helper()
	l.must("ip", "netns", "add", l.prefix+name)
	l.t.Cleanup(func() { l.must("ip", "netns", "del", l.prefix+name) })
	l.ip(name, "link", "set", "lo", "up")
}

// box makes a namespace as a container's is: eth0 with the addresses 10.99.0.n and fd99::n, and net as its gateway.
func (l *lab) box(n int, mtu int) string {
	l.t.Helper()
	name := fmt.Sprintf("box%d", n)
	l.add(name)
	port := fmt.Sprintf("port%d", n)
	l.ip("net", "link", "add", port, "mtu", fmt.Sprint(mtu), "type", "veth", "peer", "name", "eth0", "mtu", fmt.Sprint(mtu),
		"address", fmt.Sprintf("02:42:0a:63:00:%02x", n), "netns", l.prefix+name)
	l.ip("net", "link", "set", port, "master", "br0", "up")
	for _, command := range []string{
		fmt.Sprintf("addr add 10.99.0.%d/24 dev eth0", n), fmt.Sprintf("addr add fd99::%d/64 dev eth0 nodad", n), "link set eth0 up",
		"route add default via 10.99.0.1", "-6 route add default via fd99::1",
	} {
		l.ip(name, strings.Fields(command)...)
	}
	return name
}

func (l *lab) path(ns string) string { return "/run/netns/" + l.prefix + ns }

// ip runs iproute2 in a namespace.
func (l *lab) ip(ns string, args ...string) string {
	l.t.Helper()
	return l.must("ip", append([]string{"-n", l.prefix + ns}, args...)...)
}

// exec runs a command in a namespace.
func (l *lab) exec(ns string, args ...string) string {
	l.t.Helper()
	return l.must("ip", append([]string{"netns", "exec", l.prefix + ns}, args...)...)
}

func (l *lab) must(name string, args ...string) string {
	l.t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		l.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// in calls f in a namespace.
func (l *lab) in(ns string, f func() error) {
	l.t.Helper()
	if err := network.In(l.path(ns), f); err != nil {
		l.t.Fatal(err)
	}
}

// listen opens a TCP listener in a namespace.
func (l *lab) listen(ns, address string) *net.TCPListener {
	l.t.Helper()
	var out net.Listener
	l.in(ns, func() (err error) { out, err = net.Listen("tcp", address); return })
	l.t.Cleanup(func() { out.Close() })
	return out.(*net.TCPListener)
}

// dial connects from a namespace.
func (l *lab) dial(ns, kind, address string) net.Conn {
	l.t.Helper()
	var out net.Conn
	l.in(ns, func() (err error) { out, err = (&net.Dialer{Timeout: limit}).Dial(kind, address); return })
	l.t.Cleanup(func() { out.Close() })
	if err := out.SetDeadline(time.Now().Add(limit)); err != nil {
		l.t.Fatal(err)
	}
	return out
}

// echo sends back what comes, by TCP and UDP, at an address of a namespace, until the test ends.
func (l *lab) echo(ns, address string) {
	l.t.Helper()
	tcp := l.listen(ns, address)
	go func() {
		for {
			c, err := tcp.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c) // the client sees how it ends
			}()
		}
	}()
	var udp net.PacketConn
	l.in(ns, func() (err error) { udp, err = net.ListenPacket("udp", address); return })
	l.t.Cleanup(func() { udp.Close() })
	go func() {
		buf := make([]byte, 1<<16)
		for {
			n, from, err := udp.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = udp.WriteTo(buf[:n], from) // the client asks again
		}
	}()
}

// expectEcho asks an echo from a namespace. A datagram may be lost: it is sent again.
func (l *lab) expectEcho(ns, kind, address string) {
	l.t.Helper()
	c := l.dial(ns, kind, address)
	defer c.Close()
	const text = "hello"
	buf := make([]byte, 64)
	for range 60 {
		if _, err := c.Write([]byte(text)); err != nil {
			l.t.Fatalf("%s %s from %s: %v", kind, address, ns, err)
		}
		if kind == "udp" {
			_ = c.SetReadDeadline(time.Now().Add(limit / 60))
		}
		n, err := c.Read(buf)
		if kind == "udp" && errors.Is(err, os.ErrDeadlineExceeded) {
			continue
		}
		if err != nil || string(buf[:n]) != text {
			l.t.Fatalf("%s %s from %s: %q, %v", kind, address, ns, buf[:n], err)
		}
		return
	}
	l.t.Fatalf("%s %s from %s: no answer", kind, address, ns)
}

// openTAP opens a TAP of a namespace as Firecracker does, with what a Linux guest lets it offload.
func (l *lab) openTAP(ns, name string) *os.File {
	l.t.Helper()
	var f *os.File
	l.in(ns, func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		req, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
			return errors.Join(fmt.Errorf("open TAP %s: %w", name, err), unix.Close(fd))
		}
		const offloads = 1 | 2 | 4 // TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6 of linux/if_tun.h
		f = os.NewFile(uintptr(fd), name)
		return unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, offloads)
	})
	l.t.Cleanup(func() { f.Close() })
	return f
}

// stack stands for a guest: a namespace whose eth0 is at the other end of the TAP, with the hardware address and addresses of box.
func (l *lab) stack(box, tap string, n, mtu int) string {
	l.t.Helper()
	name := fmt.Sprintf("vm%d", n)
	l.add(name)
	theirs, ours := l.openTAP(box, tap), l.openTAP(name, "eth0")
	for _, pair := range [][2]*os.File{{theirs, ours}, {ours, theirs}} {
		go func() {
			buf := make([]byte, 1<<17) // of more than a segment of 64 KiB with its headers
			for {
				n, err := pair[0].Read(buf)
				if err != nil {
					return
				}
				_, _ = pair[1].Write(buf[:n]) // a full queue drops, as a network does
			}
		}()
	}
	for _, command := range []string{
		fmt.Sprintf("link set eth0 mtu %d address 02:42:0a:63:00:%02x", mtu, n), fmt.Sprintf("addr add 10.99.0.%d/24 dev eth0", n),
		fmt.Sprintf("addr add fd99::%d/64 dev eth0 nodad", n), "link set eth0 up",
		"route add default via 10.99.0.1", "-6 route add default via fd99::1",
	} {
		l.ip(name, strings.Fields(command)...)
	}
	return name
}

// bind binds a namespace for a container of this id.
func (l *lab) bind(ns, id string) *network.Binding {
	l.t.Helper()
	var b *network.Binding
	l.in(ns, func() (err error) { b, err = network.Bind(l.t.Context(), id); return })
	return b
}
