// Package bundlestandin stands in for package bundle.
package bundlestandin

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Bundle is an OCI bundle.
type Bundle struct {
	Dir    string
	Spec   *specs.Spec
	Rootfs string
	Notes  []string
}

// Load reads a bundle.
func Load(dir string) (*Bundle, error) {
	raw, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		return nil, fmt.Errorf("JSON specification file config.json not found")
	}
	b := &Bundle{Dir: dir, Spec: &specs.Spec{}}
	if err := json.Unmarshal(raw, b.Spec); err != nil {
		return nil, err
	}
	b.Rootfs = b.Spec.Root.Path
	if !filepath.IsAbs(b.Rootfs) {
		b.Rootfs = filepath.Join(dir, b.Rootfs)
	}
	return b, nil
}

// NetworkNamespace is the path of it.
func (b *Bundle) NetworkNamespace() (path string, fresh bool) {
	for _, n := range b.Spec.Linux.Namespaces {
		if n.Type == specs.NetworkNamespace {
			return n.Path, n.Path == ""
		}
	}
	return "", true
}

// GuestProcess is the guest's.
func GuestProcess(p *specs.Process) (*specs.Process, error) {
	q := *p
	q.ApparmorProfile, q.SelinuxLabel = "", ""
	return &q, nil
}

// GuestSpec is the guest's.
func (b *Bundle) GuestSpec() (*specs.Spec, error) {
	p, _ := GuestProcess(b.Spec.Process)
	p.Args = nil
	s := &specs.Spec{Version: "1.0.2", Hostname: b.Spec.Hostname, Process: p, Root: &specs.Root{Path: "rootfs", Readonly: b.Spec.Root.Readonly},
		Linux: &specs.Linux{MaskedPaths: b.Spec.Linux.MaskedPaths, ReadonlyPaths: b.Spec.Linux.ReadonlyPaths}}
	for _, m := range b.Spec.Mounts {
		switch m.Type {
		case "proc", "tmpfs", "devpts", "mqueue", "sysfs", "cgroup":
			s.Mounts = append(s.Mounts, m)
		}
	}
	for _, n := range b.Spec.Linux.Namespaces {
		switch n.Type {
		case specs.PIDNamespace, specs.MountNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.CgroupNamespace:
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: n.Type})
		}
	}
	return s, nil
}
