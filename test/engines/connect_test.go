//go:build e2e

package engines

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/runcvm/runcvm/test/engines/engine"
	"github.com/runcvm/runcvm/test/harness"
	"github.com/runcvm/runcvm/test/serve"
)

// testConnect connects a running container to a further network. A guest has it from its next start on, which the monitor's log says.
func testConnect(t *testing.T, e *engine.Engine, runtime string) {
	name := "connect-" + runtime
	t.Cleanup(func() {
		e.Run("rm", "-f", name)
		e.Run("network", "rm", name)
	})
	e.MustRun("network", "create", name)
	e.MustRun(e.WithRuntime(runtime, "run", "-d", "--name", name, "--stop-timeout", "60", engine.Busybox, "sh", "-c",
		"trap 'exit 0' TERM; while :; do sleep 0.1; done")...)
	interfaces := func(want ...string) {
		t.Helper()
		harness.Eventually(t, harness.Soon, func() error {
			got := strings.Fields(e.MustRun("exec", name, "sh", "-c", "cd /sys/class/net; ls -d eth*"))
			if strings.Join(got, " ") != strings.Join(want, " ") {
				return fmt.Errorf("interfaces %v, want %v", got, want)
			}
			return nil
		})
	}
	interfaces("eth0")
	e.MustRun("network", "connect", name, name)
	if runtime == engine.RunCVM {
		harness.Eventually(t, harness.Soon, func() error {
			log, err := e.RunCVMCommand("logs", "--source", "monitor", e.MustRun("inspect", "-f", "{{.Id}}", name))
			if err == nil && !strings.Contains(log, "from the container's next start on\" interface=eth1") {
				err = fmt.Errorf("the monitor's log does not tell of the interface:\n%s", log)
			}
			return err
		})
		interfaces("eth0")
		e.MustRun("restart", name)
	}
	interfaces("eth0", "eth1")
	expectTraffic(t, e, name, name)
}

// expectTraffic sends by both interfaces of a container, and into it by the second one, which is of this network.
func expectTraffic(t *testing.T, e *engine.Engine, container, network string) {
	t.Helper()
	const port = "18090"
	err := e.InNetwork("", func() error {
		l, err := net.Listen("tcp", ":"+port)
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close() })
		go serve.Connections(l, func(c net.Conn) {
			defer c.Close()
			client, _, _ := net.SplitHostPort(c.RemoteAddr().String())
			fmt.Fprintln(c, "hello from the host to", client)
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	attached := strings.Fields(e.MustRun("inspect", "-f",
		`{{with index .NetworkSettings.Networks "`+network+`"}}{{.IPAddress}} {{.Gateway}}{{end}}`, container))
	if len(attached) != 2 {
		t.Fatalf("the container is connected to %s with %v", network, attached)
	}
	address, gateway := attached[0], attached[1]
	for _, way := range []struct{ command, want string }{
		{"nc " + gateway + " " + port, "hello from the host to " + address},
		{"wget -q -O - http://" + engine.Outside4 + "/", "hello from outside to " + engine.Host4},
	} {
		if got := e.MustRun("exec", container, "sh", "-c", way.command); got != way.want {
			t.Errorf("%s: %q, want %q", way.command, got, way.want)
		}
	}
	e.MustRun("exec", "-d", container, "udpecho", ":8081")
	if out, err := e.Host.Run(harness.Program(t, "udpecho"), address+":8081", "datagram"); err != nil || out != "datagram\n" {
		t.Errorf("a datagram by the second interface: %q, %v", out, err)
	}
}

// testVerbs sees an engine's container by people's verbs, which do not start it: the engine would not learn of that.
func testVerbs(t *testing.T, e *engine.Engine, runtime string) {
	if runtime != engine.RunCVM {
		return // the control is not RunCVM's
	}
	const name = "verbs"
	t.Cleanup(func() { e.Run("rm", "-f", name) })
	e.MustRun(e.WithRuntime(runtime, "run", "-d", "--name", name, engine.Busybox, "sleep", "1000")...)
	id, pid := e.MustRun("inspect", "-f", "{{.Id}}", name), e.ContainerPid(name)
	for _, args := range [][]string{{"ps", "--no-trunc", "-q"}, {"ps", "--no-trunc", "-q", "--filter", "id=" + id[:5]}, {"inspect", "-f", "{{.Id}}", id}} {
		if out, err := e.RunCVMCommand(args...); err != nil || strings.TrimSpace(out) != id {
			t.Errorf("%v: %q, %v; want %s", args, out, err, id)
		}
	}
	for _, verb := range []string{"start", "restart"} {
		out, err := e.RunCVMCommand(verb, id[:12]) // by the whole id, start is a runtime's verb
		if err == nil || !strings.Contains(err.Error(), "by an engine such as Docker or Podman") {
			t.Errorf("%s: %q, %v; want it refused", verb, out, err)
		}
	}
	if now := e.ContainerPid(name); now != pid {
		t.Errorf("the container's process is %d, and was %d", now, pid)
	}
}
