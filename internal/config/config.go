// Package config holds RunCVM's settings: each has a key, a default, an environment variable, and knows where its value
// came from. In rising order: default, /etc/runcvm/config.toml, the environment, flags.
//
// Load first; Set for flags; then Config is read. A Config is not changed after that.
package config

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
)

// DefaultFile is where the configuration file is looked for unless RUNCVM_CONFIG names another.
const DefaultFile = "/etc/runcvm/config.toml"

// Config is the settings, typed.
type Config struct {
	DataDir  string
	RunDir   string
	LogLevel string

	VMM         string // path of the VMM; empty: chosen by Emulation
	Firecracker string // name or path
	Emulator    string // name or path
	Emulation   string // auto, never, always

	Kernel     string // path, see internal/kernel; empty: the newest found
	KernelArgs string // added to the kernel's command line

	Agent  string // path; empty: beside the command or in /usr/local/lib/runcvm
	Crun   string // name or path
	Memory int64  // bytes
	CPUs   int

	DiskSize    int64 // bytes
	CacheActive bool
	CacheKey    string

	LogMaxSize  int64 // bytes
	BootTimeout time.Duration

	Network           string // of a container without --network: none or a network's name
	NetworkConfDir    string
	NetworkPluginDirs string // absolute paths, separated as in PATH
	BridgeIPv4        netip.Prefix
	BridgeIPv6        netip.Prefix // not valid: none

	RegistryMirrors string // see registry.ParseMirrors
	RegistryCAFile  string // path; empty: the system's only
	RegistryTimeout time.Duration

	origin map[string]string
}

// Value is one setting for people: its key, value as text, and origin ("default", a file's path, "$NAME", "--flag").
type Value struct {
	Key    string `json:"key"`
	Value  string `json:"value"`
	Origin string `json:"origin"`
	Env    string `json:"env"`
	Doc    string `json:"doc"`
}

// Load reads the file and the environment. All faults are reported in one error, each with the key or variable and what
// is allowed. getenv is os.LookupEnv, or a test's. A file that was not named by RUNCVM_CONFIG may be missing.
func Load(getenv func(string) (string, bool)) (*Config, error) {
	c := &Config{origin: map[string]string{}}
	var errs []error
	for _, s := range settings {
		if err := c.set(s, s.def, "default"); err != nil {
			errs = append(errs, err)
		}
	}
	path, named := getenv("RUNCVM_CONFIG")
	if !named {
		path = DefaultFile
	}
	errs = append(errs, c.loadFile(path, named))
	for _, s := range settings {
		if v, ok := getenv(s.env); ok {
			errs = append(errs, c.set(s, v, "$"+s.env))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *Config) loadFile(path string, must bool) error {
	var tree map[string]any
	_, err := toml.DecodeFile(path, &tree)
	if errors.Is(err, os.ErrNotExist) && !must {
		return nil
	}
	if err != nil {
		return fmt.Errorf("configuration file %s: %w", path, err)
	}
	var errs []error
	for key, v := range flatten("", tree) {
		i := slices.IndexFunc(settings, func(s setting) bool { return s.key == key })
		if i < 0 {
			errs = append(errs, fmt.Errorf("%s: unknown key %q; \"RUNCVM_CONFIG=/dev/null runcvm config show\" lists the keys", path, key))
			continue
		}
		errs = append(errs, c.set(settings[i], fmt.Sprint(v), path))
	}
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
	return errors.Join(errs...)
}

func flatten(prefix string, tree map[string]any) map[string]any {
	flat := map[string]any{}
	for k, v := range tree {
		sub, ok := v.(map[string]any)
		if !ok {
			flat[prefix+k] = v
			continue
		}
		maps.Copy(flat, flatten(prefix+k+".", sub))
	}
	return flat
}

// Set gives the setting a value from a flag or from a container's environment; origin names it.
func (c *Config) Set(key, value, origin string) error {
	for _, s := range settings {
		if s.key == key {
			return c.set(s, value, origin)
		}
	}
	return fmt.Errorf("unknown setting %q", key)
}

func (c *Config) set(s setting, value, origin string) error {
	if err := s.set(c, value); err != nil {
		return fmt.Errorf("%s (from %s): %w", s.key, origin, err)
	}
	c.origin[s.key] = origin
	return nil
}

// Values lists every setting in the order of the documentation.
func (c *Config) Values() []Value {
	values := make([]Value, len(settings))
	for i, s := range settings {
		values[i] = Value{Key: s.key, Value: s.get(c), Origin: c.origin[s.key], Env: s.env, Doc: s.doc}
	}
	return values
}

// FromValues rebuilds a configuration in another process from what Values gave.
func FromValues(values []Value) (*Config, error) {
	c := &Config{origin: map[string]string{}}
	for _, v := range values {
		if err := c.Set(v.Key, v.Value, v.Origin); err != nil {
			return nil, err
		}
	}
	return c, nil
}
