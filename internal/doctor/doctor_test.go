package doctor

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/runcvm/runcvm/internal/config"
	"github.com/runcvm/runcvm/internal/enginefile"
	"github.com/runcvm/runcvm/internal/firecracker/install"
)

func settings(t *testing.T, env map[string]string) *config.Config {
	t.Helper()
	c, err := config.Load(func(name string) (string, bool) {
		if name == "RUNCVM_CONFIG" {
			return os.DevNull, true
		}
		v, ok := env[name]
		return v, ok
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestWhatIsNeededDependsOnTheVMM(t *testing.T) {
	const real, emulated = "KVM Firecracker", "firecracker-qemu QEMU"
	for _, c := range []struct {
		name        string
		env         map[string]string
		kvm         bool
		firecracker string
		want        string
	}{
		{"both are there", nil, true, "/bin/firecracker", real},
		{"no KVM", nil, false, "/bin/firecracker", emulated},
		{"no Firecracker", nil, true, "", emulated},
		{"nothing, emulation forbidden", map[string]string{"RUNCVM_EMULATION": "never"}, false, "", real},
		{"both, emulation forced", map[string]string{"RUNCVM_EMULATION": "always"}, true, "/bin/firecracker", emulated},
		{"a VMM that is named", map[string]string{"RUNCVM_VMM": "/opt/firecracker"}, false, "", real},
		{"an emulator that is named", map[string]string{"RUNCVM_VMM": "/opt/firecracker-qemu"}, true, "/bin/firecracker", emulated},
	} {
		h := &host{cfg: settings(t, c.env), kvmOpens: c.kvm, firecracker: c.firecracker}
		var results []Result
		for _, check := range checks {
			results = append(results, Result{Name: check.name, Status: Found, Needed: check.needed})
		}
		isEmulated := h.choose(results)
		var needed []string
		for _, r := range results {
			vmm := slices.Contains([]string{nameKVM, nameFirecracker, nameEmulator, nameQEMU}, r.Name)
			if r.Needed && vmm {
				needed = append(needed, r.Name)
			}
			if warned := r.Status == Warning; warned != (isEmulated && r.Name == nameEmulator) || warned && !strings.Contains(r.Detail, "no security boundary") {
				t.Errorf("%s: %+v", c.name, r)
			}
		}
		if got := strings.Join(needed, " "); got != c.want || isEmulated != (c.want == emulated) {
			t.Errorf("%s: needed are %s (emulated %t), want %s", c.name, got, isEmulated, c.want)
		}
	}
}

// fakeHost has these files below its root.
func fakeHost(t *testing.T, files map[string]string) *host {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return &host{Options: Options{Root: root}, cfg: settings(t, nil)}
}

func TestAMissingKVMHasTheRemedyOfItsCause(t *testing.T) {
	for flags, want := range map[string]string{
		"fpu vmx hypervisor": "modprobe kvm_intel",
		"fpu svm":            "modprobe kvm_amd",
		"fpu hypervisor":     "nested virtualization",
		"fpu":                "in the firmware",
	} {
		h := fakeHost(t, map[string]string{"/proc/cpuinfo": "processor : 0\nflags\t\t: " + flags + "\n"})
		if r := checkKVM(t.Context(), h); r.Status != Missing || !strings.Contains(r.Remedy, want) || h.kvmOpens {
			t.Errorf("flags %q: %+v, want a remedy with %q", flags, r, want)
		}
	}
	h := fakeHost(t, map[string]string{"/sys/class/misc/kvm/dev": "10:232"})
	if r := checkKVM(t.Context(), h); !strings.Contains(r.Remedy, "--device /dev/kvm") {
		t.Errorf("in a container: %+v", r)
	}
}

func TestEnginesConfigurationIsRead(t *testing.T) {
	files := map[string]string{
		"/etc/docker/daemon.json":                    `{"runtimes": {"kata": {"path": "/kata"}, "runcvm": {"path": "/usr/local/bin/runcvm"}}}`,
		"/etc/containers/containers.conf.d/10.conf":  "[engine.runtimes]\nvm = [\"/usr/local/bin/runcvm\"]\n",
		"/usr/share/containers/containers.conf":      "[engine.runtimes]\nkata = [\"/usr/bin/kata\"]\n",
		"/etc/containerd/config.toml":                "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runcvm]\nruntime_type = \"x\"\n",
		"/etc/containers/containers.conf.d/20.conf":  "[engine]\n",
		"/etc/containers/containers.conf.d/ignore.d": "[",
	}
	readers := map[string]func(*host) ([]enginefile.Runtime, error){
		"/etc/docker/daemon.json":                   ofFile(enginefile.Docker),
		"/etc/containers/containers.conf.d/10.conf": ofFile(enginefile.Podman),
		"/etc/containerd/config.toml":               containerdRuntime,
	}
	h := fakeHost(t, files)
	none := fakeHost(t, map[string]string{"/etc/docker/daemon.json": " \n", "/etc/containerd/config.toml": ""})
	broken := fakeHost(t, map[string]string{"/etc/docker/daemon.json": "{", "/etc/containerd/config.toml": "[", "/etc/containers/containers.conf": "["})
	for file, read := range readers {
		if got, err := read(h); err != nil || len(got) != 1 || got[0].File != h.path(file) {
			t.Errorf("%s: %+v, %v", file, got, err)
		}
		if got, err := read(none); err != nil || len(got) != 0 {
			t.Errorf("%s without a runtime: %+v, %v", file, got, err)
		}
		if _, err := read(broken); err == nil {
			t.Errorf("a broken file in place of %s is read", file)
		}
	}
}

func TestAnEngineThatIsThereIsToldWhatToDo(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	h := fakeHost(t, map[string]string{"/other/runcvm": "", "/kata": "", "/plain/runcvm": ""})
	for _, name := range []string{"/other/runcvm", "/kata"} {
		if err := os.Chmod(h.path(name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(h.path("/this"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, h.path("/this/runcvm")); err != nil {
		t.Fatal(err)
	}
	program := func(version string) string {
		path := filepath.Join(t.TempDir(), "engine")
		if err := os.WriteFile(path, []byte("#!/bin/sh\necho engine version "+version+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	current, old := program("2.0.0"), program("1.9.9")
	for _, c := range []struct {
		program        string
		runtime        bool
		name, path     string
		status         Status
		detail, remedy string
	}{
		{current, false, "", "", Found, "no OCI runtime", ""},
		{current, false, "runcvm", "/this/runcvm", Warning, "names the runtime runcvm", "take it out"},
		{current, true, "", "", Warning, "not registered", "runcvm install engine"},
		{current, true, "runcvm", "/this/runcvm", Found, "version 2.0.0; the runtime runcvm is registered in /f as /this/runcvm", ""},
		{current, true, "runcvm", "/gone/runcvm", Warning, "no program", "runcvm install engine"},
		{current, true, "vm", "/plain/runcvm", Warning, "no program", "runcvm install --name vm engine"},
		{current, true, "runcvm", "/kata", Warning, "not runcvm", "another name"},
		{current, true, "runcvm", "/other/runcvm", Warning, "another runcvm", "to take this one: runcvm install engine"},
		{current, true, "runcvm", "", Found, "is registered in /f", ""},
		{old, true, "runcvm", "/this/runcvm", Warning, "older than runcvm is tested with", "version 2.0.0 or later"},
		{old, true, "", "", Warning, "not registered", "or later; runcvm install engine"},
		{"/nowhere/engine", true, "", "", Missing, "not installed", ""},
	} {
		h.Runtime = c.runtime
		e := engine{programs: []string{c.program}, least: [3]int{2, 0, 0}, remedy: "runcvm install engine"}
		e.registered = func(*host) ([]enginefile.Runtime, error) {
			if c.name == "" {
				return nil, nil
			}
			return []enginefile.Runtime{{Name: c.name, Path: c.path, File: "/f"}}, nil
		}
		r := h.checkEngine(t.Context(), e)
		if r.Status != c.status || !strings.Contains(r.Detail, c.detail) || !strings.Contains(r.Remedy, c.remedy) || (r.Remedy == "") != (c.remedy == "") {
			t.Errorf("%+v: %+v", c, r)
		}
	}
	h.Runtime = true
	e := engine{programs: []string{current}, registered: func(*host) ([]enginefile.Runtime, error) { return nil, os.ErrInvalid }}
	if r := h.checkEngine(t.Context(), e); r.Status != Warning || r.Remedy != "correct the file" {
		t.Errorf("a configuration that cannot be read: %+v", r)
	}
}

func TestCNIPluginsAreFoundWhereTheyAreInstalled(t *testing.T) {
	h := fakeHost(t, map[string]string{"/opt/cni/bin/bridge": "", "/usr/lib/cni/host-local": "", "/usr/lib/cni/portmap": "", "/usr/sbin/iptables": ""})
	for _, name := range []string{"/opt/cni/bin/bridge", "/usr/lib/cni/host-local"} {
		if err := os.Chmod(h.path(name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	r := checkCNI(t.Context(), h)
	if r.Status != Missing || !strings.HasPrefix(r.Detail, "firewall, portmap in none of") || !strings.Contains(r.Remedy, "containernetworking-plugins") {
		t.Errorf("%+v", r)
	}
}

func TestDirectoriesAreMeasuredWhereTheyWouldBeMade(t *testing.T) {
	dir := t.TempDir()
	if r := checkDir(filepath.Join(dir, "not/yet"), "x", 1, 1); r.Status != Found || !strings.Contains(r.Detail, "not made yet") {
		t.Errorf("%+v", r)
	}
	if r := checkDir(dir, "the_setting", 1<<62, 1<<63); r.Status != Missing || !strings.Contains(r.Remedy, "the_setting") {
		t.Errorf("a full disk: %+v", r)
	}
	if r := checkDir(dir, "x", 1, 1<<62); r.Status != Warning {
		t.Errorf("a disk that is nearly full: %+v", r)
	}
}

func TestVersions(t *testing.T) {
	for text, want := range map[string]string{
		"Firecracker v1.16.1\n\nx": "1.16.1", "QEMU emulator version 7.2.22 (Debian 1:7.2)": "7.2.22", "crun 1.8": "", "": "",
		"v99999999999999999999.1.1": "",
	} {
		v, ok := parseVersion(text)
		if ok != (want != "") || ok && dotted(v) != want {
			t.Errorf("%q is %v, %t", text, v, ok)
		}
	}
	if compare([3]int{1, 9, 9}, install.Least) >= 0 || compare([3]int{1, 13, 1}, install.Least) != 0 || compare([3]int{2, 0, 0}, install.Least) <= 0 {
		t.Error("versions are not ordered as numbers")
	}
}
