//go:build e2e

package engine

import (
	"fmt"
	"path/filepath"
	"strings"
)

func (e *Engine) configurePodman(o Options) {
	e.t.Helper()
	manager := "cgroupfs"
	if o.Systemd {
		manager = "systemd"
	}
	runtimes := e.runtimes()
	// The log's driver is the default but for a host with systemd, which here runs no journal.
	e.Etc("containers/containers.conf", fmt.Sprintf(`[engine]
runtime = %[1]q
cgroup_manager = %[5]q
events_logger = "file"
tmp_dir = "/run/libpod"
init_path = "/usr/bin/tini-static"
runtime_supports_json = [%[1]q, %[3]q]
[containers]
log_driver = "k8s-file"
[engine.runtimes]
%[1]s = [%[2]q]
%[3]s = [%[4]q]
[network]
network_backend = "netavark"
default_subnet = "172.31.0.0/16"
`, Runc, runtimes[Runc], RunCVM, runtimes[RunCVM], manager))
	e.Etc("containers/storage.conf", fmt.Sprintf("[storage]\ndriver = \"overlay\"\ngraphroot = %q\nrunroot = %q\n",
		filepath.Join(e.Dir, "podman"), filepath.Join(e.Dir, "x")))
	e.Etc("containers/registries.conf", "")
	e.Etc("containers/policy.json", `{"default":[{"type":"insecureAcceptAnything"}]}`)
	e.t.Cleanup(func() {
		if ids := strings.Fields(e.Run("ps", "-aq").Stdout); len(ids) > 0 {
			e.Run(append([]string{"rm", "-f", "-t", "0"}, ids...)...)
		}
		e.CheckLeft()
	})
}
