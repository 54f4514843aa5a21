// Package cni connects a container's network namespace to networks, by the plugins of the Container Network Interface: the network
// "bridge", which needs no file, and those that a directory has a conflist of.
//
// Config finds networks and may be used at any time. Of a container's monitor: Open once, when it owns the container's directory;
// Attach and Detach in turns, one each for a start and an end; Close. Sweep does what a monitor that was killed could not: call it
// with the container's lock held.
package cni

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/libcni"

	"github.com/runcvm/runcvm/internal/config"
)

// Bridge is the network that needs no file, and Default another name of it, which Docker has.
const (
	Bridge  = "bridge"
	Default = "default"
)

// Config says where networks and plugins are.
type Config struct {
	// ConfDir has the conflists, PluginDirs the plugins.
	ConfDir    string
	PluginDirs []string
	// BridgeIPv4 and BridgeIPv6 are the addresses of the network Bridge; not valid: none of this family.
	BridgeIPv4, BridgeIPv6 netip.Prefix
}

// FromSettings takes it out of the settings, which are checked already.
func FromSettings(c *config.Config) Config {
	return Config{
		ConfDir: c.NetworkConfDir, PluginDirs: filepath.SplitList(c.NetworkPluginDirs), BridgeIPv4: c.BridgeIPv4, BridgeIPv6: c.BridgeIPv6,
	}
}

// Network is one that containers can be connected to.
type Network struct {
	Name string
	list *libcni.NetworkConfigList
}

// Find returns the network of this name, or an error that names those that there are.
func (c Config) Find(name string) (*Network, error) {
	if name == Bridge || name == Default {
		list, err := libcni.ConfListFromBytes(c.bridge())
		if err != nil {
			return nil, fmt.Errorf("network %q: %w", name, err)
		}
		return &Network{Bridge, list}, nil
	}
	lists, err := c.lists()
	names := []string{Bridge}
	for _, l := range lists {
		if l.Name == name {
			return &Network{name, l}, nil
		}
		names = append(names, l.Name)
	}
	slices.Sort(names)
	return nil, errors.Join(fmt.Errorf("there is no network %q; there are: %s. A conflist in %s makes another one", name,
		strings.Join(slices.Compact(names), ", "), c.ConfDir), err)
}

// lists reads the conflists. One that cannot be read is an error beside the others.
func (c Config) lists() ([]*libcni.NetworkConfigList, error) {
	files, err := libcni.ConfFiles(c.ConfDir, []string{".conflist"})
	errs := []error{err}
	slices.Sort(files)
	var all []*libcni.NetworkConfigList
	for _, f := range files {
		l, err := libcni.ConfListFromFile(f)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", f, err))
			continue
		}
		all = append(all, l)
	}
	return all, errors.Join(errs...)
}

// Can says whether one of the network's plugins has a capability of CNI's conventions.
func (n *Network) Can(capability string) bool {
	return slices.ContainsFunc(n.list.Plugins, func(p *libcni.PluginConfig) bool { return p.Network.Capabilities[capability] })
}
