package config

import (
	"fmt"
	"math"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

type setting struct {
	key, env, def, doc string
	set                func(*Config, string) error
	get                func(*Config) string
}

// settings is the one list of what can be configured.
var settings = []setting{
	path("data_dir", "RUNCVM_DATA_DIR", "/var/lib/runcvm", "images, disks, kernels and containers",
		func(c *Config) *string { return &c.DataDir }),
	path("run_dir", "RUNCVM_RUN_DIR", "/run/runcvm", "sockets of running sandboxes",
		func(c *Config) *string { return &c.RunDir }),
	choice("log_level", "RUNCVM_LOG_LEVEL", "info", "what is logged, on the host and in the guest",
		func(c *Config) *string { return &c.LogLevel }, "debug", "info", "warn", "error"),

	text("vmm.path", "RUNCVM_VMM", "", "the VMM to use, whatever emulation says",
		func(c *Config) *string { return &c.VMM }),
	text("vmm.firecracker", "RUNCVM_FIRECRACKER", "firecracker", "name or path of Firecracker",
		func(c *Config) *string { return &c.Firecracker }),
	text("vmm.emulator", "RUNCVM_EMULATOR", "firecracker-qemu", "name or path of the emulator",
		func(c *Config) *string { return &c.Emulator }),
	choice("vmm.emulation", "RUNCVM_EMULATION", "auto", "whether the emulator, which is no security boundary, may stand in for Firecracker",
		func(c *Config) *string { return &c.Emulation }, "auto", "never", "always"),

	text("kernel.path", "RUNCVM_KERNEL", "",
		"guest kernel: name of an imported one, vmlinux, vmlinuz, .deb, or a tree with boot/ and lib/modules/; empty: the default, "+
			"or the newest found",
		func(c *Config) *string { return &c.Kernel }),
	text("kernel.args", "RUNCVM_KERNEL_ARGS", "", "added to the guest kernel's command line",
		func(c *Config) *string { return &c.KernelArgs }),

	text("guest.agent", "RUNCVM_AGENT", "", "path of the agent; empty: beside runcvm or in /usr/local/lib/runcvm",
		func(c *Config) *string { return &c.Agent }),
	text("guest.crun", "RUNCVM_CRUN", "crun", "name or path of crun, copied into the guest",
		func(c *Config) *string { return &c.Crun }),
	size("guest.memory", "RUNCVM_MEMORY", "512MiB", "memory of a guest without --memory", 128<<20,
		func(c *Config) *int64 { return &c.Memory }),
	{key: "guest.cpus", env: "RUNCVM_CPUS", def: "1", doc: "vCPUs of a guest without --cpus (1 to 32)",
		set: func(c *Config, v string) (err error) { c.CPUs, err = integer(v, 1, 32); return err },
		get: func(c *Config) string { return strconv.Itoa(c.CPUs) }},

	size("disk.size", "RUNCVM_DISK_SIZE", "10GiB", "size of a container's writable disk, sparse on the host", 16<<20,
		func(c *Config) *int64 { return &c.DiskSize }),
	{key: "disk.cache", env: "ROOTFS_CACHE_ACTIVE", def: "1", doc: "whether image disks are kept (also from the container's environment)",
		set: func(c *Config, v string) (err error) { c.CacheActive, err = boolean(v); return err },
		get: func(c *Config) string { return strconv.FormatBool(c.CacheActive) }},
	text("disk.cache_key", "RUNCVM_CACHE_KEY", "", "added to the content's digest in the cache (also from the container's environment)",
		func(c *Config) *string { return &c.CacheKey }),

	size("log.max_size", "RUNCVM_LOG_MAX_SIZE", "64MiB", "bound of a container's log on disk", 64<<10,
		func(c *Config) *int64 { return &c.LogMaxSize }),
	text("network.default", "RUNCVM_NETWORK", "none", "network of a container without --network: none, bridge, or that of a conflist",
		func(c *Config) *string { return &c.Network }),
	path("network.conf_dir", "RUNCVM_CNI_CONF_DIR", "/etc/cni/net.d", "conflists of further networks",
		func(c *Config) *string { return &c.NetworkConfDir }),
	{key: "network.plugin_dirs", env: "RUNCVM_CNI_PLUGIN_DIRS", def: "/usr/lib/cni:/opt/cni/bin",
		doc: "where CNI plugins are looked for, separated as in PATH",
		set: func(c *Config, v string) error { c.NetworkPluginDirs = v; return absolute(filepath.SplitList(v)) },
		get: func(c *Config) string { return c.NetworkPluginDirs }},
	subnet("network.bridge_ipv4", "RUNCVM_BRIDGE_IPV4", "10.77.0.0/16", "addresses of the network bridge", false,
		func(c *Config) *netip.Prefix { return &c.BridgeIPv4 }),
	subnet("network.bridge_ipv6", "RUNCVM_BRIDGE_IPV6", "",
		"IPv6 addresses of the network bridge (fd00:77::/64); empty: none. With them the host forwards IPv6, and takes no routes from "+
			"routers", true,
		func(c *Config) *netip.Prefix { return &c.BridgeIPv6 }),

	text("registry.mirrors", "RUNCVM_REGISTRY_MIRRORS", "",
		"asked before the registry itself: REGISTRY=https://HOST[:PORT][/PREFIX], separated by commas",
		func(c *Config) *string { return &c.RegistryMirrors }),
	text("registry.ca_file", "RUNCVM_REGISTRY_CA_FILE", "",
		"certificates, in PEM, that registries may have beside those that the system trusts",
		func(c *Config) *string { return &c.RegistryCAFile }),
	duration("registry.timeout", "RUNCVM_REGISTRY_TIMEOUT", "1m0s", "how long a registry may be silent until it is asked again",
		func(c *Config) *time.Duration { return &c.RegistryTimeout }),

	duration("boot_timeout", "RUNCVM_BOOT_TIMEOUT", "2m0s", "how long a guest may take until its agent answers",
		func(c *Config) *time.Duration { return &c.BootTimeout }),
}

func duration(key, env, def, doc string, field func(*Config) *time.Duration) setting {
	return setting{key: key, env: env, def: def, doc: doc,
		set: func(c *Config, v string) error {
			d, err := time.ParseDuration(v)
			if err != nil || d <= 0 {
				return fmt.Errorf("%q is not a duration above zero (30s, 2m)", v)
			}
			*field(c) = d
			return nil
		},
		get: func(c *Config) string { return field(c).String() }}
}

func text(key, env, def, doc string, field func(*Config) *string) setting {
	return setting{key: key, env: env, def: def, doc: doc,
		set: func(c *Config, v string) error { *field(c) = v; return nil },
		get: func(c *Config) string { return *field(c) }}
}

func path(key, env, def, doc string, field func(*Config) *string) setting {
	s := text(key, env, def, doc, field)
	s.set = func(c *Config, v string) error {
		if !filepath.IsAbs(v) {
			return fmt.Errorf("%q is not an absolute path", v)
		}
		*field(c) = filepath.Clean(v)
		return nil
	}
	return s
}

func absolute(paths []string) error {
	for _, p := range paths {
		if !filepath.IsAbs(p) {
			return fmt.Errorf("%q is not an absolute path", p)
		}
	}
	return nil
}

// subnet is a setting of the addresses of a network. One of IPv6 may be empty.
func subnet(key, env, def, doc string, ipv6 bool, field func(*Config) *netip.Prefix) setting {
	example := "10.77.0.0/16"
	if ipv6 {
		example = "fd00:77::/64"
	}
	return setting{key: key, env: env, def: def, doc: doc,
		set: func(c *Config, v string) error {
			if *field(c) = (netip.Prefix{}); v == "" && ipv6 {
				return nil
			}
			p, err := netip.ParsePrefix(v)
			if err != nil || p.Addr().Is6() != ipv6 || p != p.Masked() || p.Addr().BitLen()-p.Bits() < 2 {
				return fmt.Errorf("%q is not a network with room for containers (%s)", v, example)
			}
			*field(c) = p
			return nil
		},
		get: func(c *Config) string {
			if !field(c).IsValid() {
				return ""
			}
			return field(c).String()
		}}
}

func choice(key, env, def, doc string, field func(*Config) *string, allowed ...string) setting {
	s := text(key, env, def, doc+" ("+strings.Join(allowed, ", ")+")", field)
	s.set = func(c *Config, v string) error {
		if !slices.Contains(allowed, v) {
			return fmt.Errorf("%q is none of %s", v, strings.Join(allowed, ", "))
		}
		*field(c) = v
		return nil
	}
	return s
}

func size(key, env, def, doc string, least int64, field func(*Config) *int64) setting {
	return setting{key: key, env: env, def: def, doc: doc,
		set: func(c *Config, v string) error {
			n, err := ParseSize(v)
			if err != nil {
				return err
			}
			if n < least {
				return fmt.Errorf("%s is less than the least, %s", v, FormatSize(least))
			}
			*field(c) = n
			return nil
		},
		get: func(c *Config) string { return FormatSize(*field(c)) }}
}

func integer(v string, least, most int) (int, error) {
	n, err := strconv.Atoi(v)
	if err != nil || n < least || n > most {
		return 0, fmt.Errorf("%q is not a whole number from %d to %d", v, least, most)
	}
	return n, nil
}

func boolean(v string) (bool, error) {
	switch strings.ToLower(v) {
	case "1", "true", "yes", "on":
		return true, nil
	case "0", "false", "no", "off":
		return false, nil
	}
	return false, fmt.Errorf("%q is neither 1 nor 0", v)
}

var units = []struct {
	suffix string
	bytes  int64
}{
	{"t", 1 << 40}, {"g", 1 << 30}, {"m", 1 << 20}, {"k", 1 << 10},
}

// ParseSize reads a number of bytes as Docker's flags take it: a number with an optional unit b, k, m, g or t, all powers
// of 1024, also written kb, KiB and so on.
func ParseSize(s string) (int64, error) {
	number := strings.ToLower(strings.TrimSpace(s))
	number = strings.TrimSuffix(strings.TrimSuffix(number, "b"), "i")
	factor := int64(1)
	for _, u := range units {
		if rest, ok := strings.CutSuffix(number, u.suffix); ok {
			number, factor = strings.TrimSpace(rest), u.bytes
			break
		}
	}
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || n < 0 || math.IsNaN(n) || n*float64(factor) > math.MaxInt64/2 {
		return 0, fmt.Errorf("%q is not a size (512m, 10GiB)", s)
	}
	return int64(n * float64(factor)), nil
}

// FormatSize writes a number of bytes with the largest unit that divides it.
func FormatSize(n int64) string {
	for _, u := range units {
		if n != 0 && n%u.bytes == 0 {
			return fmt.Sprintf("%d%siB", n/u.bytes, strings.ToUpper(u.suffix))
		}
	}
	return fmt.Sprintf("%d", n)
}
