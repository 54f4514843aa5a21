//go:build e2e

package cni_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/runcvm/runcvm/test/engines/engine"
	"github.com/runcvm/runcvm/test/harness"
	"github.com/runcvm/runcvm/test/serve"
)

// prepared is a namespace with two interfaces, each with a neighbour of its own, and all that a guest gets of one. The second interface is
// the first by its name and by its hardware address, and the first one by its number has the larger MTU.
const prepared = `
ip netns add prepared; ip netns add near; ip netns add far
ip -n prepared link set lo up
for n in near far; do ip -n $n link set lo up; done
ip link add net1 netns prepared mtu 9000 address 02:00:00:00:00:22 type veth peer name peer mtu 9000 netns near
ip link add eth0 netns prepared mtu 1400 address 02:00:00:00:00:11 type veth peer name peer mtu 1400 netns far
address() { ip -n $1 address add $3 dev $2 ${4:-}; }
address prepared net1 10.90.0.2/24; address prepared net1 10.90.0.3/24; address prepared net1 fd90::2/64 nodad
address prepared eth0 10.91.0.2/24; address prepared eth0 fd91::2/64 nodad
address near peer 10.90.0.1/24; address near peer fd90::1/64 nodad
address far peer 10.91.0.1/24; address far peer 10.94.0.1/32; address far peer fd91::1/64 nodad; address far peer fd94::1/128 nodad
for a in 10.80.0.1/32 fd80::1/128; do address near lo $a; done
for a in 10.92.0.1/32 10.93.0.1/32 fd92::1/128 fd93::1/128; do address far lo $a; done
ip -n prepared link set net1 up; ip -n prepared link set eth0 up
for n in near far; do ip -n $n link set peer up; done
route() { ip -n prepared route add "$@"; }
route default via 10.90.0.1
route default via fd90::1
route 10.92.0.0/16 via 10.91.0.1 dev eth0 src 10.91.0.2 metric 77 mtu 1300
route fd92::/64 via fd91::1 dev eth0 src fd91::2 metric 77 mtu 1300
route 10.92.0.0/16 via 10.90.0.1 dev net1 metric 78
route fd92::/64 via fd90::1 dev net1 metric 78
route 10.93.0.0/16 via 10.94.0.1 dev eth0 onlink
route fd93::/64 via fd94::1 dev eth0 onlink
route 10.95.0.0/16 dev eth0 scope link
route fd95::/64 dev eth0
for kind in blackhole unreachable prohibit; do
  route $kind 10.96.0.0/16 metric ${#kind}
  route $kind fd96::/64 metric ${#kind}
done
neighbour() { ip -n prepared neighbour add $1 lladdr $2 dev $3 nud permanent; }
neighbour 10.90.0.9 02:00:00:00:00:99 net1
neighbour 10.91.0.9 02:00:00:00:00:9a eth0
neighbour fd90::9 02:00:00:00:00:9b net1
neighbour fd91::9 02:00:00:00:00:9c eth0
`

// newPrepared returns a host with that namespace, and the image with the programs that look into one.
func newPrepared(t *testing.T) *host {
	t.Helper()
	h := newHost(t)
	if _, err := h.Run("sh", "-ec", prepared); err != nil {
		t.Fatal(err)
	}
	h.run("import", os.Getenv("RUNCVM_TEST_TOOLS_IMAGE"), harness.ToolsImage)
	return h
}

const preparedNetwork = "ns:/run/netns/prepared"

func TestTheNetworkOfANamespace(t *testing.T) {
	h := newPrepared(t)
	for _, n := range []string{"near", "far"} {
		h.tellClients(n)
	}
	before := h.inPrepared("ip -j link")
	h.run("run", "-d", "--name", "guest", "--network", preparedNetwork, harness.ToolsImage, "sleep", "1000")
	for _, what := range []struct {
		command string
		// fields are those that are compared.
		fields []string
	}{
		{"ip -j link", []string{"ifname", "address", "mtu", "flags"}},
		{"ip -j address", []string{"ifname", "addr_info"}},
		{"ip -j -4 route", nil}, {"ip -j -6 route", nil},
		{"ip -j neighbour show nud permanent", nil},
	} {
		want := entries(t, h.inPrepared(what.command), what.fields)
		got := entries(t, h.run("exec", "guest", "sh", "-c", what.command), what.fields)
		if diff := gocmp.Diff(want, got); diff != "" || len(want) == 0 {
			t.Errorf("%s (-namespace +guest), %d entries:\n%s", what.command, len(want), diff)
		}
	}
	for _, way := range []struct{ to, want string }{
		{"10.90.0.1", "near to 10.90.0.2"}, {"10.91.0.1", "far to 10.91.0.2"}, {"fd90::1", "near to fd90::2"}, {"fd91::1", "far to fd91::2"},
		{"10.80.0.1", "near to 10.90.0.2"}, {"fd80::1", "near to fd90::2"}, // the default routes
		{"10.92.0.1", "far to 10.91.0.2"}, {"fd92::1", "far to fd91::2"}, // the lower metrics
		{"10.93.0.1", "far to 10.91.0.2"}, {"fd93::1", "far to fd91::2"}, // gateways that no other route leads to
	} {
		if got := h.run("exec", "guest", "bash", "-c", "cat </dev/tcp/"+way.to+"/"+clientsPort); got != way.want {
			t.Errorf("at %s: %q, want %q", way.to, got, way.want)
		}
	}
	h.run("rm", "-f", "guest")
	if after := h.inPrepared("ip -j link"); after != before {
		t.Errorf("the namespace's interfaces were\n%s\nand are\n%s", before, after)
	}
	h.expectNothingLeft(t)
}

// What a guest cannot have of a namespace is refused before its VMM starts.
func TestRoutesThatAGuestCannotHaveAreRefused(t *testing.T) {
	h := newPrepared(t)
	for _, row := range []struct{ route, want string }{
		{"10.97.0.0/16 nexthop via 10.90.0.1 nexthop via 10.91.0.1", "10.97.0.0/16: a choice of several gateways is not supported in a guest; leave it out of"},
		{"fd97::/64 nexthop via fd90::1 nexthop via fd91::1", "fd97::/64: a choice of several gateways is not supported in a guest; leave it out of"},
		{"10.97.0.0/16 via 10.90.0.1 table 100", "10.97.0.0/16: routing table 100 is not supported in a guest; leave it out of"},
		{"default via fd90::1 table 100", "route ::/0: routing table 100 is not supported in a guest; leave it out of"},
		{"10.97.0.0/16 via 10.90.0.1 tos 0x10", "10.97.0.0/16: a type of service (0x10) is not supported in a guest; leave it out of"},
		{"10.97.0.0/16 via inet6 fd90::1", "10.97.0.0/16: a gateway of another family is not supported in a guest; leave it out of"},
		{"10.97.0.0/16 encap ip id 1 dst 10.90.0.1 via 10.90.0.1 dev net1", "10.97.0.0/16: an encapsulation is not supported in a guest; leave it out of"},
	} {
		h.inPrepared("ip route add " + row.route)
		h.refused(row.want, "run", "--rm", "--network", preparedNetwork, engine.Busybox, "true")
		h.inPrepared("ip route del " + row.route)
	}
	h.expectNothingLeft(t)
}

// inPrepared runs a command line in the namespace that must succeed.
func (h *host) inPrepared(command string) string {
	h.t.Helper()
	out, err := h.Run("ip", "netns", "exec", "prepared", "sh", "-c", command)
	if err != nil {
		h.t.Fatal(err)
	}
	return out
}

// clientsPort is where neighbours tell clients their addresses.
const clientsPort = "7"

// tellClients serves in a neighbour's namespace, which tells each client its name and the client's address.
func (h *host) tellClients(name string) {
	h.t.Helper()
	err := h.InNetwork(name, func() error {
		l, err := net.Listen("tcp", ":"+clientsPort)
		if err != nil {
			return err
		}
		h.t.Cleanup(func() { l.Close() })
		go serve.Connections(l, func(c net.Conn) {
			defer c.Close()
			client, _, _ := net.SplitHostPort(c.RemoteAddr().String())
			fmt.Fprintln(c, name, "to", client)
		})
		return nil
	})
	if err != nil {
		h.t.Fatal(err)
	}
}

// entries are what ip(8) lists as JSON, one a line, in a fixed order. Left out is what has no meaning in another kernel: who has set
// something, numbers and states of interfaces, and the TAPs.
func entries(t *testing.T, text string, fields []string) []string {
	t.Helper()
	// A guest's kernel looks for no address elsewhere before it uses it: the namespace's has done so.
	text = strings.ReplaceAll(text, `"nodad":true,`, "")
	var all []map[string]any
	if err := json.Unmarshal([]byte(text), &all); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	var lines []string
	for _, e := range all {
		if name, _ := e["ifname"].(string); name == "lo" || strings.HasPrefix(name, "b9fc_") {
			continue
		}
		for field := range e {
			if field == "protocol" || len(fields) > 0 && !slices.Contains(fields, field) {
				delete(e, field)
			}
		}
		line, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, string(line))
	}
	slices.SortFunc(lines, cmp.Compare[string])
	return lines
}
