//go:build e2e

package network

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/test/network/tapguest"
)

func TestAHostileGuestHarmsNobodyElse(t *testing.T) {
	n := newNeighbours(t)
	for name, next := range hostile(n) {
		t.Run(name, func(t *testing.T) {
			n := *n
			n.bed = &bed{n.Bed, t}
			n.othersAreWell()
			namespace, host := state(t, n.bound.Namespace, "eth0"), state(t, n.Host, tapguest.Bridge)
			log := kernelLog(t)
			stop := flood(n.guest.NICs[0], next)
			n.othersAreWell()
			sent, taken := stop()
			t.Logf("%d of %d frames were taken", taken, sent)
			unchanged(t, n.bound.Namespace, "eth0", namespace)
			unchanged(t, n.Host, tapguest.Bridge, host)
			n.hostKnowsEachWhereItIs()
			n.guestIsWell()
			n.othersAreWell()
			if faults := log(); faults != "" {
				t.Errorf("the kernel says:\n%s", faults)
			}
		})
	}
}

// flood sends frames as fast as they are taken, until stop, which waits for the minimum that a flood is.
func flood(nic *tapguest.NIC, next func(*rand.Rand, int) frame) (stop func() (sent, taken int64)) {
	const least = 20_000
	var sent, taken atomic.Int64
	var group sync.WaitGroup
	var ended atomic.Bool
	group.Go(func() {
		r := rand.New(rand.NewPCG(1, 2))
		for i := 0; i < least || !ended.Load(); i++ {
			f := next(r, i)
			sent.Add(1)
			if nic.Send(f.header, f.content) == nil {
				taken.Add(1)
			}
		}
	})
	return func() (int64, int64) {
		ended.Store(true)
		group.Wait()
		return sent.Load(), taken.Load()
	}
}

// hostKnowsEachWhereItIs fails the test unless the host has the right hardware address for each IP address, its bridge each of them at its
// own port, and neither has others.
func (n *neighbours) hostKnowsEachWhereItIs() {
	n.t.Helper()
	right := map[string]string{}
	for c, mac := range map[*tapguest.Container]net.HardwareAddr{n.bound: n.guest.NICs[0].MAC, n.other: macOf(n.t, n.other.Namespace, "eth0")} {
		right[c.V4.String()], right[c.V6.String()] = mac.String(), mac.String()
	}
	must(n.t, n.Host.Do(func() error {
		known, err := netlink.NeighList(0, netlink.FAMILY_ALL)
		for _, k := range known {
			if k.State&(netlink.NUD_NOARP|netlink.NUD_FAILED) == 0 && !k.IP.IsLinkLocalUnicast() && right[k.IP.String()] != k.HardwareAddr.String() {
				return fmt.Errorf("the host takes %s for %s", k.HardwareAddr, k.IP)
			}
		}
		return err
	}))
	want := map[string]string{n.guest.NICs[0].MAC.String(): n.bound.Port, macOf(n.t, n.other.Namespace, "eth0").String(): n.other.Port}
	must(n.t, n.Host.Do(func() error {
		out, err := exec.Command("bridge", "fdb", "show", "br", tapguest.Bridge, "dynamic").Output()
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(out)) {
			f := strings.Fields(line) // MAC dev PORT master br0 ...
			if port, ok := want[f[0]]; !ok || port != f[2] {
				return fmt.Errorf("the bridge takes %s for the hardware address of whoever is at %s; it knows\n%.1000s", f[0], f[2], out)
			}
		}
		return nil
	}))
}

func macOf(t *testing.T, n *tapguest.Namespace, name string) (mac net.HardwareAddr) {
	t.Helper()
	must(t, n.Do(func() error {
		i, err := net.InterfaceByName(name)
		if err == nil {
			mac = i.HardwareAddr
		}
		return err
	}))
	return mac
}

func random(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// kernelLog begins to read the kernel's log; the function that it returns tells what was said of faults since.
func kernelLog(t *testing.T) func() string {
	t.Helper()
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	must(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	_, err = unix.Seek(fd, 0, io.SeekEnd)
	must(t, err)
	return func() string {
		var faults strings.Builder
		b := make([]byte, 8192)
		for {
			n, err := unix.Read(fd, b) // one record
			switch {
			case errors.Is(err, unix.EAGAIN):
				return faults.String()
			case errors.Is(err, unix.EPIPE):
				continue // records were overwritten before they were read
			}
			must(t, err)
			if kernelFault.Match(b[:n]) {
				faults.Write(b[:n])
			}
		}
	}
}

// kernelFault matches what Linux says of its own faults, and of tables that are full.
var kernelFault = regexp.MustCompile(`(?i)BUG:|WARNING:|Oops|general protection|Call Trace|table overflow|hung|stall`)
