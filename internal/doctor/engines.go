package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"

	"github.com/runcvm/runcvm/internal/enginefile"
)

// engine is a container engine that could run containers through runcvm.
type engine struct {
	programs []string // the first of these that is there says that it is installed
	least    [3]int   // the oldest version that runcvm is tested with; zero for any
	// registered lists what its configuration names as runcvm.
	registered func(h *host) ([]enginefile.Runtime, error)
	remedy     string
}

func checkDocker(ctx context.Context, h *host) Result {
	return h.checkEngine(ctx, engine{
		programs: []string{"dockerd", "docker"}, least: [3]int{20, 10, 0}, registered: ofFile(enginefile.Docker),
		remedy: "runcvm install docker, then systemctl reload docker",
	})
}

func checkPodman(ctx context.Context, h *host) Result {
	return h.checkEngine(ctx, engine{
		programs: []string{"podman"}, least: [3]int{4, 3, 0}, registered: ofFile(enginefile.Podman), remedy: "runcvm install podman",
	})
}

func checkContainerd(ctx context.Context, h *host) Result {
	return h.checkEngine(ctx, engine{
		programs: []string{"containerd"}, registered: containerdRuntime,
		remedy: `[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runcvm] with runtime_type = "io.containerd.runcvm.v2" in ` +
			`/etc/containerd/config.toml, then systemctl restart containerd`,
	})
}

// ofFile lists what is called runcvm in an engine's files, or is it under another name.
func ofFile(e enginefile.Engine) func(*host) ([]enginefile.Runtime, error) {
	return func(h *host) ([]enginefile.Runtime, error) {
		all, err := e.Runtimes(h.Root)
		return slices.DeleteFunc(all, func(r enginefile.Runtime) bool { return r.Name != enginefile.DefaultName && !r.Ours() }), err
	}
}

// checkEngine never names something that is needed: runcvm runs containers itself.
func (h *host) checkEngine(ctx context.Context, e engine) Result {
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
	r := Result{Status: Found, Detail: path}
	if text, err := output(ctx, path, "--version"); err == nil {
		if v, ok := parseVersion(text); ok {
			r.Detail += ", version " + dotted(v)
			if compare(v, e.least) < 0 {
				r.Status, r.Remedy = Warning, "take version "+dotted(e.least)+" or later"
				r.Detail += ", older than runcvm is tested with"
			}
		}
	}
	found, err := e.registered(h)
	switch {
	case err != nil:
		r.worsen("its configuration cannot be read: "+err.Error(), "correct the file")
	case !h.Runtime && len(found) == 0:
		r.Detail += "; it cannot use this version of runcvm, which is no OCI runtime: use runcvm run"
	case !h.Runtime:
		r.worsen(fmt.Sprintf("%s names the runtime %s, which this version cannot be", found[0].File, found[0].Name),
			"take it out of there, and use runcvm run")
	case len(found) == 0:
		r.worsen("the runtime "+enginefile.DefaultName+" is not registered", e.remedy)
	}
	if h.Runtime {
		for _, f := range found {
			h.checkRuntime(&r, f, e.remedy)
		}
	}
	return r
}

// worsen adds what is to be known, and its remedy, to a line.
func (r *Result) worsen(detail, remedy string) {
	r.Status = Warning
	r.Detail += "; " + detail
	if r.Remedy != "" {
		r.Remedy += "; "
	}
	r.Remedy += remedy
}

// checkRuntime looks whether the program that an engine would start is this one.
func (h *host) checkRuntime(r *Result, f enginefile.Runtime, remedy string) {
	if f.Name != enginefile.DefaultName {
		remedy = strings.Replace(remedy, "install", "install --name "+f.Name, 1)
	}
	where := fmt.Sprintf("the runtime %s is registered in %s", f.Name, f.File)
	if f.Path == "" { // containerd finds a shim by its type
		r.Detail += "; " + where
		return
	}
	where += " as " + f.Path
	info, err := os.Stat(h.path(f.Path))
	switch {
	case err != nil || !info.Mode().IsRegular() || info.Mode()&0o111 == 0:
		r.worsen(where+", which is no program", remedy)
		return
	case !f.Ours():
		r.worsen(where+", which is not runcvm", "choose another name: "+strings.Replace(remedy, "install", "install --name NAME", 1))
		return
	}
	self, err := os.Executable()
	if err == nil {
		var own os.FileInfo
		if own, err = os.Stat(self); err == nil && !os.SameFile(info, own) {
			r.worsen(where+", another runcvm than this one, "+self, "to take this one: "+remedy)
			return
		}
	}
	r.Detail += "; " + where
}

func containerdRuntime(h *host) ([]enginefile.Runtime, error) {
	file := h.path("/etc/containerd/config.toml")
	var t map[string]any
	_, err := toml.DecodeFile(file, &t)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	// Version 2 of the configuration, then version 3 of containerd 2.
	for _, plugin := range []string{"io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime"} {
		if _, ok := table(t, "plugins", plugin, "containerd", "runtimes")[enginefile.DefaultName]; ok {
			return []enginefile.Runtime{{Name: enginefile.DefaultName, File: file}}, nil
		}
	}
	return nil, nil
}

// table is the one that lies at the path; nil where there is none.
func table(t map[string]any, path ...string) map[string]any {
	for _, p := range path {
		t, _ = t[p].(map[string]any)
	}
	return t
}
