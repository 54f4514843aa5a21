package doctor

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// cniPlugins make the networks of "runcvm run".
var cniPlugins = []string{"bridge", "firewall", "host-local", "portmap"}

// checkCNI looks for the plugins, and for what they run themselves.
func checkCNI(_ context.Context, h *host) Result {
	cniDirs := filepath.SplitList(h.cfg.NetworkPluginDirs)
	var found, missing []string
	for _, name := range cniPlugins {
		path := ""
		for _, dir := range cniDirs {
			info, err := os.Stat(h.path(filepath.Join(dir, name)))
			if err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
				path = dir
				break
			}
		}
		if path == "" {
			missing = append(missing, name)
		} else if len(found) == 0 || found[len(found)-1] != path {
			found = append(found, path)
		}
	}
	const remedy = "apt-get install containernetworking-plugins"
	if len(missing) > 0 {
		return Result{Status: Missing, Remedy: remedy,
			Detail: strings.Join(missing, ", ") + " in none of " + strings.Join(cniDirs, ", ") + ": networks of runcvm run need them"}
	}
	r := Result{Status: Found, Detail: strings.Join(cniPlugins, ", ") + " in " + strings.Join(found, ", ")}
	if _, err := exec.LookPath("iptables"); err != nil {
		if _, err := os.Stat(h.path("/usr/sbin/iptables")); err != nil {
			r.worsen("iptables, by which they masquerade and publish ports, is not installed", "apt-get install iptables")
		}
	}
	return r
}
