package monitor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/runcvm/runcvm/internal/cleanup"
	"github.com/runcvm/runcvm/internal/cni"
	"github.com/runcvm/runcvm/internal/config"
	"github.com/runcvm/runcvm/internal/container"
	"github.com/runcvm/runcvm/internal/network"
)

// hostNetwork is the host's network namespace, where CNI plugins run: the monitor is in the container's.
var hostNetwork = fmt.Sprintf("/proc/self/fd/%d", hostNetFD)

// makeNamespace makes the namespace of a container that is to be connected to networks, and returns the host's; nil for any other
// container.
func (r *Request) makeNamespace() (host *os.File, err error) {
	r.Netns = ""
	if !r.connected() || r.Maintain {
		return nil, nil
	}
	if host, err = os.Open("/proc/thread-self/ns/net"); err != nil {
		return nil, fmt.Errorf("open the host's network namespace: %w", err)
	}
	path := container.NewNamespacePath(r.setting("data_dir"), r.setting("run_dir"), r.ID)
	if err := network.NewNamespace(path); err != nil {
		return nil, errors.Join(err, host.Close())
	}
	r.Netns = path
	return host, nil
}

// dropNamespace removes the namespace of a monitor that has failed and is gone. One that was killed has written down what is to be undone
// of its networks, for which the namespace is needed: it goes with that, when the next command looks at the container.
func (r Request) dropNamespace() error {
	if cni.Owns(container.Dir(r.setting("data_dir"), r.ID), r.Netns) {
		return nil
	}
	return network.RemoveNamespace(r.Netns)
}

// setting is one of the configuration's values.
func (r Request) setting(key string) string {
	i := slices.IndexFunc(r.Settings, func(v config.Value) bool { return v.Key == key })
	if i < 0 {
		return ""
	}
	return r.Settings[i].Value
}

// also adds a further error to one whose kind counts.
func also(err, further error) error {
	if further == nil {
		return err
	}
	return errors.Join(err, further)
}

// exposedPorts are those of the image, by its words, and those that the user exposes, to be published at any ports of the host.
func exposedPorts(image []string, further []cni.Port) ([]cni.Port, error) {
	ports := slices.Clone(further)
	for _, spec := range image {
		more, err := cni.ParsePort(spec)
		if err != nil {
			return nil, fmt.Errorf("a port that the image exposes: %w", err)
		}
		for _, p := range more {
			if !slices.Contains(ports, p) {
				ports = append(ports, p)
			}
		}
	}
	return ports, nil
}

// openNetworks begins with the container's networks, before its first life.
func (m *monitor) openNetworks(ctx context.Context, undo *cleanup.Stack) (err error) {
	if !m.req.connected() {
		return nil
	}
	if m.networks, err = cni.Open(ctx, m.files.Dir, m.req.ID, m.req.Netns, hostNetwork); err != nil {
		return err
	}
	undo.AddFunc(m.closeNetworks)
	return nil
}

// closeNetworks ends with them, after the last life.
func (m *monitor) closeNetworks() error {
	if m.networks == nil {
		return nil
	}
	return m.networks.Close(context.Background())
}

// connects says whether this life's namespace is to be connected to networks.
func (l *life) connects() bool { return l.networks != nil }

// attachNetworks connects the container's namespace to its networks.
func (l *life) attachNetworks(ctx context.Context, undo func(func() error)) error {
	defer l.timeline.Phase("attach-networks")()
	req := l.req.Attach
	if l.req.PublishAll {
		exposed, err := exposedPorts(l.prep.spec.ExposedPorts, l.req.Expose)
		if err != nil {
			return err
		}
		req.Ports = slices.Concat(req.Ports, exposed)
	}
	attachments, ports, err := l.networks.Attach(ctx, cni.FromSettings(l.cfg), req)
	if err != nil {
		return fmt.Errorf("connect the container to its networks: %w", err)
	}
	undo(func() error { return l.detachNetworks(context.Background()) })
	l.attachments = attachments
	l.update(func(r *container.Record) { r.Networks, r.Ports = attachments, ports })
	return nil
}

func (l *life) detachNetworks(ctx context.Context) error {
	if !l.connects() {
		return nil
	}
	err := l.networks.Detach(ctx)
	l.update(func(r *container.Record) { r.Networks, r.Ports = nil, nil })
	return err
}
