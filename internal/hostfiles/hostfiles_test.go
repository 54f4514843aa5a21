package hostfiles

import (
	"net/netip"
	"strings"
	"testing"
)

func addresses(list ...string) (all []netip.Addr) {
	for _, a := range list {
		all = append(all, netip.MustParseAddr(a))
	}
	return all
}

func TestHosts(t *testing.T) {
	further := []Host{{"db", "10.0.0.9"}, {"up", Gateway}}
	got, err := Hosts("web", "example", addresses("10.0.0.2", "fd00::2"), further, addresses("10.0.0.1", "fd00::1"))
	want := loopback + "10.0.0.9\tdb\n10.0.0.1\tup\nfd00::1\tup\n10.0.0.2\tweb.example web\nfd00::2\tweb.example web\n"
	if err != nil || got != want {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
	if _, err := Hosts("web", "", nil, further, nil); err == nil || !strings.Contains(err.Error(), "up:host-gateway") {
		t.Errorf("without a gateway: %v", err)
	}
}

func TestResolvConf(t *testing.T) {
	host := ParseResolvConf("# by hand\nnameserver 127.0.0.53\nnameserver\tfd00::53\nnameserver ::1\ndomain old\nsearch a b\noptions ndots:2\noptions edns0 \nsortlist x\n")
	for _, test := range []struct {
		asked Resolver
		want  string
	}{
		{Resolver{}, "nameserver fd00::53\nsearch a b\noptions ndots:2 edns0\n"},
		{Resolver{Servers: []string{"10.0.0.53"}}, "nameserver 10.0.0.53\nsearch a b\noptions ndots:2 edns0\n"},
		{Resolver{Search: []string{"."}, Options: []string{"rotate"}}, "nameserver fd00::53\noptions rotate\n"},
	} {
		if got := test.asked.Or(Resolver{}, host.Reachable()).String(); got != test.want {
			t.Errorf("%+v: %q, want %q", test.asked, got, test.want)
		}
	}
}

func FuzzParseHost(f *testing.F) {
	for _, s := range []string{"a:1.2.3.4", "a=fd00::1", "a:[fd00::1]", "a:host-gateway", ":1.2.3.4", "a b:1.2.3.4", "a:fe80::1%eth0\nx"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		h, err := ParseHost(s)
		if err != nil {
			return
		}
		text, err := Hosts("", "", nil, []Host{h}, addresses("10.0.0.1"))
		if err != nil || strings.Count(text, "\n") != strings.Count(loopback, "\n")+1 {
			t.Errorf("%q becomes more than one line: %q, %v", s, text, err)
		}
	})
}
