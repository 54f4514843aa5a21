package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
)

// engine is a container engine that could run containers through runcvm.
type engine struct {
	programs []string // any of these says that it is installed
	// registered says whether a configuration names runcvm, and where.
	registered func(h *host) (file string, err error)
	remedy     string
}

// runtimeName is what runcvm is called in engines' configuration.
const runtimeName = "runcvm"

func checkDocker(_ context.Context, h *host) Result {
	return h.checkEngine(engine{
		programs: []string{"dockerd", "docker"}, registered: dockerRuntime,
		remedy: `{"runtimes": {"runcvm": {"path": "/usr/local/bin/runcvm"}}} in /etc/docker/daemon.json, then systemctl reload docker`,
	})
}

func checkPodman(_ context.Context, h *host) Result {
	return h.checkEngine(engine{
		programs: []string{"podman"}, registered: podmanRuntime,
		remedy: `[engine.runtimes] with runcvm = ["/usr/local/bin/runcvm"] in /etc/containers/containers.conf`,
	})
}

func checkContainerd(_ context.Context, h *host) Result {
	return h.checkEngine(engine{
		programs: []string{"containerd"}, registered: containerdRuntime,
		remedy: `[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runcvm] with runtime_type = "io.containerd.runcvm.v2" in ` +
			`/etc/containerd/config.toml, then systemctl restart containerd`,
	})
}

// checkEngine never names something that is needed: runcvm runs containers itself.
func (h *host) checkEngine(e engine) Result {
	path := ""
	for _, p := range e.programs {
		if found, err := exec.LookPath(p); err == nil {
			path = found
			break
		}
	}
	if path == "" {
		return Result{Status: Missing, Detail: "not installed, which runcvm run does not need"}
	}
	file, err := e.registered(h)
	switch {
	case err != nil:
		return Result{Status: Warning, Detail: path + "; its configuration cannot be read: " + err.Error(), Remedy: "correct the file"}
	case !h.Runtime && file == "":
		return Result{Status: Found, Detail: path + "; it cannot use this version of runcvm, which is no OCI runtime: use runcvm run"}
	case !h.Runtime:
		return Result{Status: Warning,
			Detail: fmt.Sprintf("%s; %s names the runtime %s, which this version cannot be", path, file, runtimeName),
			Remedy: "take it out of there, and use runcvm run"}
	case file == "":
		return Result{Status: Warning, Detail: path + "; the runtime " + runtimeName + " is not registered", Remedy: e.remedy}
	}
	return Result{Status: Found, Detail: fmt.Sprintf("%s; the runtime %s is registered in %s", path, runtimeName, file)}
}

func dockerRuntime(h *host) (string, error) {
	file := h.path("/etc/docker/daemon.json")
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	var config struct {
		Runtimes map[string]json.RawMessage `json:"runtimes"`
	}
	if len(strings.TrimSpace(string(b))) > 0 {
		if err := json.Unmarshal(b, &config); err != nil {
			return "", fmt.Errorf("%s: %w", file, err)
		}
	}
	if _, ok := config.Runtimes[runtimeName]; !ok {
		return "", nil
	}
	return file, nil
}

func podmanRuntime(h *host) (string, error) {
	files := []string{h.path("/usr/share/containers/containers.conf"), h.path("/etc/containers/containers.conf")}
	more, err := filepath.Glob(h.path("/etc/containers/containers.conf.d/*.conf"))
	if err != nil {
		return "", err
	}
	return tomlRuntime(append(files, more...), func(t map[string]any) bool {
		_, ok := table(t, "engine", "runtimes")[runtimeName]
		return ok
	})
}

func containerdRuntime(h *host) (string, error) {
	return tomlRuntime([]string{h.path("/etc/containerd/config.toml")}, func(t map[string]any) bool {
		// Version 2 of the configuration, then version 3 of containerd 2.
		for _, plugin := range []string{"io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime"} {
			if _, ok := table(t, "plugins", plugin, "containerd", "runtimes")[runtimeName]; ok {
				return true
			}
		}
		return false
	})
}

// tomlRuntime returns the last of the files in which it is registered.
func tomlRuntime(files []string, registered func(map[string]any) bool) (string, error) {
	for _, file := range slices.Backward(files) {
		var t map[string]any
		_, err := toml.DecodeFile(file, &t)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("%s: %w", file, err)
		}
		if registered(t) {
			return file, nil
		}
	}
	return "", nil
}

// table is the one that lies at the path; nil where there is none.
func table(t map[string]any, path ...string) map[string]any {
	for _, p := range path {
		t, _ = t[p].(map[string]any)
	}
	return t
}
