//go:build e2e

// Package cni_test runs containers that are connected to networks by CNI plugins, on a host of its own with a neighbour.
package cni_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/runcvm/runcvm/test/engines/engine"
	"github.com/runcvm/runcvm/test/harness"
)

func TestMain(m *testing.M) { engine.Main(m) }

// further are settings and a network of the host.
const (
	further = "[network]\nbridge_ipv6 = \"fd00:77::/64\"\n"
	lab     = `{"cniVersion": "1.0.0", "name": "lab", "plugins": [
		{"type": "bridge", "bridge": "lab0", "isGateway": true, "ipMasq": true, "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.78.0.0/24"}]],
		 "routes": [{"dst": "0.0.0.0/0"}]}, "dns": {"nameservers": ["` + engine.Outside4 + `"], "search": ["lab.example"]}}]}`
)

// host is one with a container's images and networks.
type host struct {
	*engine.Host
	t *testing.T
}

func newHost(t *testing.T) *host {
	h := &host{engine.NewHost(t), t}
	h.ServeOutside()
	h.ConfigureRunCVM(further)
	h.Etc("cni/net.d/50-lab.conflist", lab)
	h.run("import", engine.Archive(t, engine.Busybox), engine.Busybox)
	return h
}

// run runs a command that is to succeed, and returns its trimmed output.
func (h *host) run(args ...string) string {
	h.t.Helper()
	out, err := h.RunCVMCommand(args...)
	if err != nil {
		h.t.Fatalf("%v\n%s", err, h.logs())
	}
	return strings.TrimSpace(out)
}

// logs are the monitors' of all containers.
func (h *host) logs() string {
	var all strings.Builder
	files, _ := filepath.Glob(filepath.Join(h.RunCVMDir(), "data", "containers", "*", "monitor.log"))
	for _, f := range files {
		b, _ := os.ReadFile(f)
		fmt.Fprintf(&all, "%s:\n%.4000s\n", f, b)
	}
	return all.String()
}

// refused expects a command to fail with this in its words.
func (h *host) refused(want string, args ...string) {
	h.t.Helper()
	out, err := h.RunCVMCommand(args...)
	if err == nil || !strings.Contains(err.Error(), want) {
		h.t.Errorf("runcvm %s: %q, %v; want an error with %q", strings.Join(args, " "), out, err, want)
	}
}

// get fetches a page from a namespace of the host's, "" being its own, and returns it or the error.
func (h *host) get(namespace, address string) (page string, err error) {
	err = h.InNetwork(namespace, func() error {
		conn, err := net.DialTimeout("tcp", address, harness.Soon)
		if err != nil {
			return err
		}
		defer conn.Close()
		client := http.Client{Timeout: harness.Soon, Transport: &http.Transport{DisableKeepAlives: true,
			DialContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil }}}
		r, err := client.Get("http://host/")
		if err != nil {
			return err
		}
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		page = string(b)
		return err
	})
	return page, err
}

// expectPage waits until the page that the servers here have is at an address.
func (h *host) expectPage(namespace, address string) {
	h.t.Helper()
	harness.Eventually(h.t, harness.Patience, func() error {
		if page, err := h.get(namespace, address); err != nil || page != "hello\n" {
			return fmt.Errorf("%s from %q: %q, %w", address, namespace, page, err)
		}
		return nil
	})
}

// servers are one of pages and one that echoes datagrams.
const servers = `mkdir -p /w; echo hello >/w/index.html; httpd -p 8080 -h /w; httpd -p 8082 -h /w; exec udpecho :8081`

func TestContainersOfTheBridge(t *testing.T) {
	h := newHost(t)
	h.run("run", "-d", "--name", "server", "--ip", "10.77.0.50", "-p", "18080:8080", "-p", "18081:8081/udp", "-p", "127.0.0.1:19000-19009:8080",
		"-P", "--expose", "8082", engine.Busybox, "sh", "-c", servers)
	t.Run("ports are published", func(t *testing.T) {
		for _, from := range []struct{ namespace, address string }{
			{"outside", "198.18.0.2:18080"}, {"outside", "[fd00:198::2]:18080"}, {"", "198.18.0.2:18080"}, {"", "127.0.0.1:18080"},
			{"", "127.0.0.1:19000"}, {"", "10.77.0.50:8080"},
		} {
			h.expectPage(from.namespace, from.address)
		}
		if page, err := h.get("outside", "198.18.0.2:19000"); err == nil {
			t.Errorf("a port of 127.0.0.1 is reached from outside: %q", page)
		}
		udpecho := filepath.Join(harness.Bin(t), "test", "udpecho")
		if out, err := h.Run("ip", "netns", "exec", "outside", udpecho, "198.18.0.2:18081", "datagram"); err != nil || out != "datagram\n" {
			t.Errorf("%q, %v", out, err)
		}
	})
	t.Run("they are shown", func(t *testing.T) { h.expectShown(t) })
	t.Run("another container", func(t *testing.T) { h.expectClient(t) })
	t.Run("a port in use is refused", func(t *testing.T) {
		before := h.left()
		for _, want := range []string{"veth", "-s 10.77.0.50/32", "CNI-DN-", "networks/runcvm/10.77.0.50", "networks/runcvm/fd00:77::", "run/netns", "network.json"} {
			if !strings.Contains(before, want) {
				t.Errorf("nothing of %s is on the host, so that nothing of it can be left:\n%s", want, before)
			}
		}
		h.refused("address already in use", "run", "--rm", "-p", "18080:80", engine.Busybox, "true")
		if left := h.left(); left != before {
			t.Errorf("before:\n%s\nafter:\n%s", before, left)
		}
	})
	t.Run("a monitor that is killed leaves nothing", func(t *testing.T) {
		harness.Kill(t, h.monitor(), syscall.SIGKILL)
		harness.Eventually(t, harness.Soon, func() error {
			if state := h.run("ps", "-a", "--format", "{{.State}}"); state != "exited" {
				return fmt.Errorf("state %s", state)
			}
			return nil
		})
		h.expectNothingLeft(t)
	})
	t.Run("it is started again", func(t *testing.T) {
		h.run("start", "server")
		h.expectPage("outside", "198.18.0.2:18080")
		h.run("rm", "-f", "server")
		h.expectNothingLeft(t)
		if _, err := h.get("", "127.0.0.1:18080"); err == nil {
			t.Error("its port is still open")
		}
	})
}

// monitor waits for the one container's monitor, and returns its pid, as the machine sees it.
func (h *host) monitor() (pid int) {
	h.t.Helper()
	harness.Eventually(h.t, harness.Soon, func() error {
		all := h.Processes()
		for p, command := range all {
			// What it is about to run has its command line, too, for a moment.
			status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p))
			if command == "runcvm monitor" && firstOfNamespace.Match(status) {
				pid = p
				return nil
			}
		}
		return fmt.Errorf("no monitor among %v", all)
	})
	return pid
}

// firstOfNamespace matches the status of a process that is PID 1 of its namespace.
var firstOfNamespace = regexp.MustCompile(`(?m)^NSpid:.*\t1$`)

func (h *host) expectShown(t *testing.T) {
	const ports = "0.0.0.0:18080->8080/tcp, 0.0.0.0:PORT->8082/tcp, 127.0.0.1:19000->8080/tcp, 0.0.0.0:18081->8081/udp"
	var shown []struct {
		NetworkSettings struct {
			IPAddress string
			Ports     map[string][]struct{ HostIp, HostPort string }
			Networks  map[string]struct {
				IPAddress, Gateway, GlobalIPv6Address, MacAddress string
				IPPrefixLen                                       int
			}
		}
	}
	if err := json.Unmarshal([]byte(h.run("inspect", "server")), &shown); err != nil {
		t.Fatal(err)
	}
	s := shown[0].NetworkSettings
	n := s.Networks["bridge"]
	if s.IPAddress != "10.77.0.50" || n.IPAddress != s.IPAddress || n.IPPrefixLen != 16 || n.Gateway != "10.77.0.1" ||
		!strings.HasPrefix(n.GlobalIPv6Address, "fd00:77::") || len(n.MacAddress) != 17 || len(s.Ports["8080/tcp"]) != 2 || len(s.Ports["8082/tcp"]) != 1 || len(s.Ports["8081/udp"]) != 1 {
		t.Fatalf("inspect: %+v", s)
	}
	exposed := s.Ports["8082/tcp"][0].HostPort
	if got, want := h.run("ps", "--format", "{{.Ports}}"), strings.Replace(ports, "PORT", exposed, 1); got != want {
		t.Errorf("ps: %q, want %q", got, want)
	}
	h.expectPage("outside", "198.18.0.2:"+exposed)
}

// expectClient looks at a container's names, and reaches from it the other one, the world outside, and a port of the host's that leads to the
// other one.
func (h *host) expectClient(t *testing.T) {
	out := h.run("run", "--rm", "--network", "bridge", "--hostname", "client", "--dns", engine.Outside4, "--dns-search", "example", "--dns-option", "timeout:1",
		"--add-host", "srv:10.77.0.50", "--add-host", "up:host-gateway", engine.Busybox, "sh", "-c",
		`set -e; wget -qO- http://srv:8080/; wget -qO- http://198.18.0.1/; wget -qO- http://outside/; wget -qO- http://up:18080/; udpecho srv:8081 datagram
		 cat /etc/resolv.conf /etc/hostname; grep srv /etc/hosts; grep -c "$(hostname -i | cut -d' ' -f1)	client" /etc/hosts; echo more >>/etc/hosts`)
	const want = "hello\nhello from outside to 198.18.0.2\nhello from outside to fd00:198::2\nhello\ndatagram\n" +
		"nameserver 198.18.0.1\nsearch example\noptions timeout:1\nclient\n10.77.0.50\tsrv\n1"
	if out != want {
		t.Errorf("%q, want %q", out, want)
	}
}

func TestContainersOfAConflist(t *testing.T) {
	h := newHost(t)
	out := h.run("run", "--rm", "--network", "lab", engine.Busybox, "sh", "-c",
		`wget -qO- http://outside.example/; ip -4 -o addr show eth0 | awk '{ print $4 }'; cat /etc/resolv.conf`)
	if want := "hello from outside to 198.18.0.2\n10.78.0.2/24\nnameserver 198.18.0.1\nsearch lab.example"; out != want {
		t.Errorf("%q, want %q", out, want)
	}
	h.expectNothingLeft(t)
}

func TestWhatCannotBeIsRefused(t *testing.T) {
	h := newHost(t)
	image := engine.Busybox
	h.refused("invalid hostPort: 70000", "run", "-p", "70000:80", image)
	h.refused("sctp cannot be published", "run", "-p", "80:80/sctp", image)
	h.refused("invalid ranges", "run", "-p", "80-81:80-82", image)
	h.refused("there are: bridge, lab", "run", "--network", "elsewhere", image)
	h.refused("--network host is not supported", "run", "--network", "host", image)
	h.refused("container:x is not supported", "run", "--network", "container:x", image)
	h.refused("--network none: no port can be published", "run", "--network", "none", "-p", "80", image)
	h.refused(`network "lab" cannot publish ports`, "run", "--network", "lab", "-p", "80", image)
	h.refused("without a network there is no host-gateway", "run", "--add-host", "x:host-gateway", image)
	h.refused("failed to allocate all requested IPs: 10.99.0.1", "run", "--rm", "--ip", "10.99.0.1", image, "true")
	h.expectNothingLeft(t)
}

// guestless runs a command with a VMM that runs no guest.
func (h *host) guestless(args ...string) (string, error) {
	return h.Run("env", append([]string{"RUNCVM_VMM=" + harness.Program(h.t, "guestless"), "RUNCVM_KERNEL_ARGS=hostile=obedient",
		filepath.Join(harness.Bin(h.t), "runcvm")}, args...)...)
}

// TestAMonitorThatIsKilledAtAnyMomentLeavesNothing kills it while plugins run, before and after.
func TestAMonitorThatIsKilledAtAnyMomentLeavesNothing(t *testing.T) {
	h := newHost(t)
	const rounds, step = 16, 20 * time.Millisecond
	for n := range rounds {
		ended := make(chan error, 1)
		go func() {
			_, err := h.guestless("run", "-d", "--name", "c", "-p", "18080:80", "-p", "18081:81/udp", engine.Busybox, "true")
			ended <- err
		}()
		monitor := h.monitor()
		time.Sleep(time.Duration(n) * step)
		harness.Kill(t, monitor, syscall.SIGKILL)
		err := <-ended
		if _, rmErr := h.RunCVMCommand("rm", "-f", "c"); rmErr != nil && !strings.Contains(rmErr.Error(), "no container") {
			t.Errorf("round %d: %v", n, rmErr)
		}
		h.expectNothingLeft(t)
		if t.Failed() {
			t.Fatalf("in round %d, in which the start said: %v", n, err)
		}
	}
}

// left lists what containers have on the host: interfaces, namespaces, rules, and leases of addresses.
func (h *host) left() string {
	h.t.Helper()
	var all []string
	script := `ip -o link | grep -oE '(veth|b9fc)[^:@]*' || true
iptables-save; ip6tables-save`
	out, err := h.Run("sh", "-c", script)
	if err != nil {
		h.t.Fatal(err)
	}
	for line := range strings.Lines(out) {
		// Chains that are each network's, and the jumps there, stay with the bridge.
		if strings.Contains(line, "10.7") || strings.Contains(line, "fd00:77") || strings.HasPrefix(line, "veth") || strings.HasPrefix(line, "b9fc") ||
			strings.Contains(line, "CNI-DN-") || strings.Contains(line, "CNI-SN-") {
			all = append(all, line)
		}
	}
	root := fmt.Sprintf("/proc/%d/root", h.Pid)
	for _, pattern := range []string{root + "/var/lib/cni/networks/*/[0-9f]*", root + "/var/lib/cni/results/*", filepath.Join(root, h.RunCVMDir(), "run/*"),
		filepath.Join(h.RunCVMDir(), "data/containers/*/network.json"), filepath.Join(h.RunCVMDir(), "data/containers/*/cni")} {
		files, _ := filepath.Glob(pattern)
		for _, f := range files {
			text, _ := os.ReadFile(f) // a directory has none
			all = append(all, fmt.Sprintf("%s %.200q\n", f, text))
		}
	}
	return strings.Join(all, "")
}

func (h *host) expectNothingLeft(t *testing.T) {
	t.Helper()
	if left := h.left(); left != "" {
		t.Errorf("left on the host:\n%s", left)
	}
	for line := range strings.Lines(h.run("gc", "--format", "{{.Kind}} {{.Path}}")) {
		if !strings.Contains(line, "/data/disks/") && !strings.Contains(line, "/data/kernels/") { // caches, which later starts use
			t.Errorf("gc finds: %s", line)
		}
	}
	for deadline := time.Now().Add(harness.Soon); len(h.Processes()) > 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Errorf("processes are left: %v", h.Processes())
			return
		}
	}
}
