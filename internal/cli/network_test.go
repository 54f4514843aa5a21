package cli

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/runcvm/runcvm/internal/cni"
	"github.com/runcvm/runcvm/internal/hostfiles"
	"github.com/runcvm/runcvm/internal/monitor"
)

// networks reads flags where the network bridge and one named lab are, which gives addresses and nothing else.
func networks(t *testing.T, settings map[string]string, args ...string) (monitor.Request, []error) {
	t.Helper()
	a := testApp(t)
	plugins, conf := t.TempDir(), t.TempDir()
	for _, name := range []string{"bridge", "portmap", "firewall"} {
		if err := os.WriteFile(filepath.Join(plugins, name), nil, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	const lab = `{"cniVersion": "1.0.0", "name": "lab", "plugins": [{"type": "bridge", "capabilities": {"ips": true}}]}`
	const far = `{"cniVersion": "1.0.0", "name": "far", "plugins": [{"type": "wormhole"}]}`
	for name, text := range map[string]string{"lab": lab, "far": far} {
		if err := os.WriteFile(filepath.Join(conf, name+".conflist"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for key, value := range map[string]string{"network.plugin_dirs": plugins, "network.conf_dir": conf} {
		if err := a.cfg.Set(key, value, "test"); err != nil {
			t.Fatal(err)
		}
	}
	for key, value := range settings {
		if err := a.cfg.Set(key, value, "test"); err != nil {
			t.Fatal(err)
		}
	}
	var f runFlags
	cmd := a.runCommandWith(&f)
	if err := cmd.ParseFlags(args); err != nil {
		t.Fatal(err)
	}
	var r monitor.Request
	errs := slices.DeleteFunc(f.network.apply(&r, a.cfg), func(err error) bool { return err == nil })
	return r, errs
}

func TestNetworksThatAContainerHas(t *testing.T) {
	bridge := map[string]string{"network.default": "bridge"}
	for _, test := range []struct {
		settings map[string]string
		args     string
		want     []string
	}{
		{nil, "", nil},
		{nil, "-p 80", []string{"bridge"}},
		{nil, "-P", []string{"bridge"}},
		{nil, "--ip 10.77.0.9", []string{"bridge"}},
		{bridge, "", []string{"bridge"}},
		{bridge, "--network none", nil},
		{map[string]string{"network.default": "lab"}, "", []string{"lab"}},
		{nil, "--network lab --net bridge --ip 10.1.0.1", []string{"lab", "bridge"}},
		{nil, "--network ns:/run/netns/x", nil},
	} {
		r, errs := networks(t, test.settings, strings.Fields(test.args)...)
		if len(errs) > 0 || !slices.Equal(r.Attach.Networks, test.want) {
			t.Errorf("%s: %v, %v; want %v", test.args, r.Attach.Networks, errs, test.want)
		}
	}
}

func TestNetworksThatCannotBe(t *testing.T) {
	for args, want := range map[string]string{
		"--network elsewhere":               `no network "elsewhere"; there are: bridge, far, lab.`,
		"--network far":                     "the CNI plugin wormhole is in none of",
		"--network lab -p 80":               `network "lab" cannot publish ports`,
		"--network lab --mac-address 2:2:2": "--mac-address",
		"--network none --network lab":      "exclude other networks (none, lab)",
		"--network lab --net lab":           `network "lab" is there twice`,
		"--network none -P":                 "--network none: no port can be published",
		"--network ns:/x -p 80":             "--network ns:/x: no port can be published",
		"--network ns:x":                    "absolute path",
		"--network host":                    "--network host is not supported",
		"--network container:y":             "--network container:y is not supported",
		"--network=":                        "write the name of a network",
		"-p x":                              "--publish: ",
		"-p 1-2:1-3":                        "invalid ranges",
		"-p 80/sctp":                        "sctp cannot be published",
		"-p 0":                              "port 0",
		"--expose 80:80":                    "--expose 80/tcp",
		"--ip fd00::1":                      `--ip "fd00::1"`,
		"--ip6 10.0.0.1":                    `--ip6 "10.0.0.1"`,
		"--dns name":                        `--dns "name"`,
		"--dns-search=":                     `--dns-search ""`,
		"--add-host x":                      "write NAME:ADDRESS",
		"--add-host x:y":                    `"y" is neither`,
		"--add-host x:host-gateway":         "no host-gateway",
	} {
		_, errs := networks(t, nil, strings.Fields(args)...)
		if len(errs) != 1 || !strings.Contains(errs[0].Error(), want) {
			t.Errorf("%s: %v; want %q alone", args, errs, want)
		}
	}
}

func TestWhatIsAskedOfANetwork(t *testing.T) {
	r, errs := networks(t, nil, "-p", "127.0.0.1:8080-8081:80-81", "-p", "53/udp", "--expose", "7-8", "--ip", "10.77.1.2", "--ip6", "fd00::2",
		"--mac-address", "02:00:00:00:00:01", "--dns", "198.18.0.1", "--dns-search", "a", "--dns-search", "b", "--dns-opt", "x", "--dns-option", "y",
		"--add-host", "up:host-gateway", "--add-host", "six=[fd00::1]")
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	local := netip.MustParseAddr("127.0.0.1")
	ports := []cni.Port{{HostIP: local, HostPort: 8080, ContainerPort: 80, Protocol: "tcp"}, {HostIP: local, HostPort: 8081, ContainerPort: 81, Protocol: "tcp"},
		{ContainerPort: 53, Protocol: "udp"}}
	n := r.Names
	if !slices.Equal(r.Attach.Ports, ports) || len(r.Expose) != 2 || len(r.Attach.IPs) != 2 || r.Attach.MAC != "02:00:00:00:00:01" ||
		!slices.Equal(n.Servers, []string{"198.18.0.1"}) || !slices.Equal(n.Search, []string{"a", "b"}) || !slices.Equal(n.Options, []string{"y", "x"}) ||
		!slices.Equal(n.Hosts, []hostfiles.Host{{Name: "up", Address: "host-gateway"}, {Name: "six", Address: "fd00::1"}}) {
		t.Errorf("%+v", r)
	}
}

func TestPublishedPortsAreShownAsRanges(t *testing.T) {
	local := netip.MustParseAddr("127.0.0.1")
	six := netip.MustParseAddr("::1")
	for want, ports := range map[string][]cni.Port{
		"": nil,
		"0.0.0.0:8080-8082->80-82/tcp, 127.0.0.1:8083->83/tcp": {
			{HostPort: 8081, ContainerPort: 81, Protocol: "tcp"}, {HostPort: 8080, ContainerPort: 80, Protocol: "tcp"},
			{HostPort: 8082, ContainerPort: 82, Protocol: "tcp"}, {HostIP: local, HostPort: 8083, ContainerPort: 83, Protocol: "tcp"},
		},
		"[::1]:53->53/tcp, 0.0.0.0:53->53/udp": {{HostPort: 53, ContainerPort: 53, Protocol: "udp"}, {HostIP: six, HostPort: 53, ContainerPort: 53, Protocol: "tcp"}},
	} {
		if got := portsOf(ports); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
