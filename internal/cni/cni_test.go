package cni

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestTheBridgeHasTheAddressesOfTheSettings(t *testing.T) {
	c := Config{BridgeIPv4: netip.MustParsePrefix("10.9.0.0/24")}
	for _, test := range []struct {
		ipv6  netip.Prefix
		parts []string
	}{
		{netip.Prefix{}, []string{`"ranges":[[{"subnet":"10.9.0.0/24"}]]`, `"routes":[{"dst":"0.0.0.0/0"}]`}},
		{netip.MustParsePrefix("fd00:9::/64"), []string{`[{"subnet":"10.9.0.0/24"}],[{"subnet":"fd00:9::/64"}]`, `{"dst":"0.0.0.0/0"},{"dst":"::/0"}`}},
	} {
		c.BridgeIPv6 = test.ipv6
		for _, name := range []string{"bridge", "default"} {
			n, err := c.Find(name)
			if err != nil || n.Name != Bridge || !n.Can(capPorts) || !n.Can(capIPs) || !n.Can(capMAC) {
				t.Fatalf("%s: %+v, %v", name, n, err)
			}
			for _, part := range test.parts {
				if !strings.Contains(string(n.list.Bytes), part) {
					t.Errorf("%s is not in %s", part, n.list.Bytes)
				}
			}
		}
	}
}

func TestAConflistThatCannotBeReadHidesNoOther(t *testing.T) {
	c := Config{ConfDir: t.TempDir()}
	write(t, filepath.Join(c.ConfDir, "a.conflist"), "{")
	write(t, filepath.Join(c.ConfDir, "b.conflist"), `{"cniVersion": "1.0.0", "name": "b", "plugins": [{"type": "x"}]}`)
	if n, err := c.Find("b"); err != nil || n.Name != "b" {
		t.Errorf("%+v, %v", n, err)
	}
	if _, err := c.Find("c"); err == nil || !strings.Contains(err.Error(), "bridge, b") && !strings.Contains(err.Error(), "b, bridge") ||
		!strings.Contains(err.Error(), "a.conflist") {
		t.Errorf("%v", err)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestPortsAreTakenFromOthers(t *testing.T) {
	local := netip.MustParseAddr("127.0.0.1")
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	used := busy.Addr().(*net.TCPAddr).AddrPort().Port()
	_, _, err = reserve(t.Context(), []Port{{HostIP: local, ContainerPort: 1, Protocol: "tcp"}, {HostIP: local, HostPort: used, ContainerPort: 80, Protocol: "tcp"}})
	if !errors.Is(err, unix.EADDRINUSE) || !strings.Contains(err.Error(), "publish 80/tcp at 127.0.0.1:") {
		t.Errorf("a port in use: %v", err)
	}
	r, taken, err := reserve(t.Context(), []Port{
		{HostIP: local, HostPort: used, HostEnd: used + 100, ContainerPort: 80, Protocol: "tcp"}, {HostIP: local, ContainerPort: 53, Protocol: "udp"},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	if taken[0].HostPort <= used || taken[0].HostEnd != 0 || taken[1].HostPort == 0 {
		t.Errorf("%+v, the first is in use: %d", taken, used)
	}
	// Nobody waits for an answer that does not come.
	c, err := net.Dial("tcp", taken[0].Host())
	if err == nil {
		_, err = c.Read(make([]byte, 1))
		c.Close()
	}
	if !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("a connection that is not led to the container: %v", err)
	}
}

func TestWhatCannotBeSweptIsKept(t *testing.T) {
	dir := t.TempDir()
	if err := Sweep(t.Context(), dir); err != nil || Left(dir) {
		t.Errorf("without networks: %v", err)
	}
	s := &Session{dir: dir, record: record{ID: "id", Namespace: filepath.Join(dir, "gone"), PluginDirs: []string{dir},
		Networks: []joined{{Interface: "eth0", Config: []byte(`{"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "missing"}]}`)}}}}
	if err := s.save(); err != nil {
		t.Fatal(err)
	}
	if err := Sweep(t.Context(), dir); err == nil || !Left(dir) {
		t.Errorf("a plugin is missing: %v, left: %v", err, Left(dir))
	}
	s.Networks = nil
	if err := s.save(); err != nil {
		t.Fatal(err)
	}
	if err := Sweep(t.Context(), dir); err != nil || Left(dir) {
		t.Errorf("%v, left: %v", err, Left(dir))
	}
}

func FuzzParsePort(f *testing.F) {
	for _, s := range []string{"80", "8080:80", "127.0.0.1::80/udp", "[::1]:1-2:3-4", "8000-8010:80", "0.0.0.0:1:1", "80/sctp", "65536", "0", "1:2:3:4", "-1", "a-b:c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ports, err := ParsePort(s)
		if err == nil && len(ports) == 0 {
			t.Errorf("%q is no port and no error", s)
		}
		for _, p := range ports {
			if p.ContainerPort == 0 || p.Protocol != "tcp" && p.Protocol != "udp" || p.HostEnd != 0 && p.HostEnd < p.HostPort {
				t.Errorf("%q: %+v", s, p)
			}
		}
	})
}

func TestAResultIsGivenToThosePluginsThatHaveNone(t *testing.T) {
	for _, test := range []struct{ config, result, want string }{
		{`{"a":1}`, `{"ips":[]}`, `{"a":1,"prevResult":{"ips":[]}}`},
		{`{"a":1}`, "", `{"a":1}`},
		{`{"prevResult":{}}`, `{"ips":[]}`, `{"prevResult":{}}`},
	} {
		got, err := withResult([]byte(test.config), []byte(test.result))
		if err != nil || string(got) != test.want {
			t.Errorf("%s with %s: %s, %v; want %s", test.config, test.result, got, err, test.want)
		}
	}
}
