// Package oci turns what the host was asked for (an image's configuration and the options of a command) into what the
// guest is asked for: the command, and an OCI runtime specification built fresh, field by field.
//
// Resolve first, then Spec of what it returned.
package oci

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/moby/sys/signal"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/runcvm/runcvm/internal/guestapi"
)

// Options are what a user asked for beside the image. Empty fields leave the image's.
type Options struct {
	// Entrypoint replaces the image's; one empty string takes it away. Where it is set, the image's Cmd is not used.
	Entrypoint []string `json:"entrypoint,omitempty"`
	// Cmd replaces the image's Cmd.
	Cmd []string `json:"cmd,omitempty"`
	// Env has entries NAME=value, later ones win.
	Env      []string `json:"env,omitempty"`
	User     string   `json:"user,omitempty"`
	Cwd      string   `json:"cwd,omitempty"`
	Hostname string   `json:"hostname,omitempty"`
	ReadOnly bool     `json:"read_only,omitempty"`
	// Tmpfs has entries PATH[:OPTIONS] as docker run --tmpfs takes them.
	Tmpfs      []string `json:"tmpfs,omitempty"`
	Domainname string   `json:"domainname,omitempty"`
	// Init runs the command below an init that reaps and hands signals on.
	Init bool `json:"init,omitempty"`
	// Terminal gives the process one.
	Terminal bool `json:"terminal,omitempty"`
	// Groups are further groups of the process, by name or number.
	Groups []string `json:"groups,omitempty"`
	// StopSignal replaces the image's.
	StopSignal string `json:"stop_signal,omitempty"`
	// StopTimeout is how many seconds the container may take to end after its stop signal; nil is DefaultStopTimeout, -1 forever.
	StopTimeout *int `json:"stop_timeout,omitempty"`
	// NoShm leaves /dev/shm out (--ipc none).
	NoShm bool `json:"no_shm,omitempty"`
	// Sysctls are kernel parameters by name.
	Sysctls     map[string]string `json:"sysctls,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	Limits
	Security
}

// DefaultStopTimeout is Docker's, in seconds.
const DefaultStopTimeout = 10

// Container is a container with everything decided.
type Container struct {
	Args     []string
	Env      []string
	User     string // name|uid[:group|gid], resolved in the guest; empty: 0
	Cwd      string
	Hostname string
	ReadOnly bool
	Tmpfs    []Tmpfs
	Terminal bool
	Labels   map[string]string
	// ExposedPorts are those of the image, as it writes them, in the order of their words.
	ExposedPorts []string
	// StopSignal asks the container to end; NamesStopSignal says whether it is one of its own, and not what everybody has.
	StopSignal      syscall.Signal
	NamesStopSignal bool
	// StopTimeout is how long it may take then; negative is without end.
	StopTimeout time.Duration

	Domainname  string
	Init        bool
	Groups      []string // by name or number, resolved in the guest
	NoShm       bool
	Sysctls     map[string]string
	Annotations map[string]string
	// EtcFiles are files of /etc, of which each start has copies (guestapi.CopiesDir) by the same names.
	EtcFiles []string
	Limits
	Security
}

// Tmpfs is one file system in memory.
type Tmpfs struct {
	Path    string
	Options []string
}

// ErrNoCommand says that neither the image nor the user names a command.
var ErrNoCommand = errors.New("no command: the image has neither Entrypoint nor Cmd, and none was given; name one after the image")

// defaultPath is what Docker gives a container without PATH.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Resolve merges the image's configuration and the options by Docker's rules. All faults are in one error.
func Resolve(image ocispec.ImageConfig, opt Options) (Container, error) {
	c := Container{
		Args:     command(image, opt),
		Env:      environment(image.Env, opt),
		User:     or(opt.User, image.User),
		Cwd:      path.Clean("/" + or(opt.Cwd, image.WorkingDir)),
		Hostname: opt.Hostname,
		ReadOnly: opt.ReadOnly,

		Labels:          Labels(image, opt),
		ExposedPorts:    slices.Sorted(maps.Keys(image.ExposedPorts)),
		StopTimeout:     DefaultStopTimeout * time.Second,
		NamesStopSignal: opt.StopSignal != "" || image.StopSignal != "",

		Domainname:  opt.Domainname,
		Init:        opt.Init,
		Groups:      opt.Groups,
		NoShm:       opt.NoShm,
		Sysctls:     opt.Sysctls,
		Annotations: opt.Annotations,
		Limits:      opt.Limits,
		Security:    opt.Security,
		Terminal:    opt.Terminal,
	}
	var errs []error
	var err error
	if c.StopSignal, err = signal.ParseSignal(or(opt.StopSignal, image.StopSignal, "SIGTERM")); err != nil {
		errs = append(errs, fmt.Errorf("the stop signal: %w", err))
	}
	if opt.StopTimeout != nil {
		c.StopTimeout = time.Duration(*opt.StopTimeout) * time.Second
	}
	if len(c.Args) == 0 {
		errs = append(errs, ErrNoCommand)
	}
	if opt.Cwd != "" && !path.IsAbs(opt.Cwd) {
		errs = append(errs, fmt.Errorf("working directory %q is not an absolute path", opt.Cwd))
	}
	for _, t := range opt.Tmpfs {
		dest, options, _ := strings.Cut(t, ":")
		if !path.IsAbs(dest) || path.Clean(dest) == "/" {
			errs = append(errs, fmt.Errorf("tmpfs %q: not an absolute path below /", dest))
			continue
		}
		c.Tmpfs = append(c.Tmpfs, Tmpfs{Path: path.Clean(dest), Options: split(options)})
	}
	errs = append(errs, CheckText(c)...)
	// Once more: what was kept of a container for its next start is not to be confined by less than it asked for.
	errs = append(errs, c.Security.check()...)
	return c, errors.Join(errs...)
}

// Labels are a container's: the image's and those of the options, which win.
func Labels(image ocispec.ImageConfig, opt Options) map[string]string {
	all := map[string]string{}
	maps.Copy(all, image.Labels)
	maps.Copy(all, opt.Labels)
	return all
}

// Check says what is wrong with the options, all at once. It comes before the options are written as JSON, which would replace
// invalid UTF-8 in silence.
func (o Options) Check() error {
	errs := CheckText(Container{
		Args: slices.Concat(o.Entrypoint, o.Cmd), Env: o.Env, User: o.User, Cwd: o.Cwd, Hostname: o.Hostname, Domainname: o.Domainname,
		Groups: o.Groups, Sysctls: o.Sysctls, Annotations: o.Annotations, Security: o.Security,
	})
	errs = append(errs, o.Limits.check()...)
	errs = append(errs, o.Security.check()...)
	errs = append(errs, checkSysctls(o.Sysctls)...)
	if o.StopSignal != "" {
		if _, err := signal.ParseSignal(o.StopSignal); err != nil {
			errs = append(errs, fmt.Errorf("--stop-signal %q: no signal; write a name like SIGTERM, or a number", o.StopSignal))
		}
	}
	if o.StopTimeout != nil && *o.StopTimeout < -1 {
		errs = append(errs, fmt.Errorf("--stop-timeout %d: a number of seconds, or -1 to wait without end", *o.StopTimeout))
	}
	for _, g := range o.Groups {
		if g == "" || strings.ContainsAny(g, ":,\n") {
			errs = append(errs, fmt.Errorf("--group-add %q: the name or number of a group", g))
		}
	}
	for key := range o.Annotations {
		if key == "" || strings.HasPrefix(key, guestapi.AnnotationPrefix) {
			errs = append(errs, fmt.Errorf("--annotation %q: a name that is not empty and does not begin with %s", key,
				guestapi.AnnotationPrefix))
		}
	}
	return errors.Join(errs...)
}

// CheckText refuses what neither JSON nor execve can carry.
func CheckText(c Container) []error {
	var errs []error
	check := func(what string, values ...string) {
		for i, v := range values {
			switch {
			case !utf8.ValidString(v):
				errs = append(errs, fmt.Errorf("%s %d is not valid UTF-8 (%q), which the OCI specification cannot carry", what, i, v))
			case strings.ContainsRune(v, 0):
				errs = append(errs, fmt.Errorf("%s %d holds a NUL byte", what, i))
			}
		}
	}
	check("argument", c.Args...)
	check("environment entry", c.Env...)
	check("user", c.User)
	check("working directory", c.Cwd)
	check("hostname", c.Hostname)
	check("domain name", c.Domainname)
	check("group", c.Groups...)
	check("capability", slices.Concat(c.CapAdd, c.CapDrop)...)
	for what, m := range map[string]map[string]string{"kernel parameter": c.Sysctls, "annotation": c.Annotations} {
		for key, value := range m {
			check(what, key, value)
		}
	}
	if c.Hostname != "" && (len(c.Hostname) > 64 || strings.ContainsAny(c.Hostname, " \t\n/\x00")) {
		errs = append(errs, fmt.Errorf("hostname %q: at most 64 bytes without spaces and slashes", c.Hostname))
	}
	for i, e := range c.Env {
		if name, _, ok := strings.Cut(e, "="); !ok || name == "" {
			errs = append(errs, fmt.Errorf("environment entry %d (%q) is not NAME=value", i, e))
		}
	}
	return errs
}

func command(image ocispec.ImageConfig, opt Options) []string {
	if len(opt.Entrypoint) > 0 {
		if len(opt.Entrypoint) == 1 && opt.Entrypoint[0] == "" {
			return slices.Clone(opt.Cmd)
		}
		return slices.Concat(opt.Entrypoint, opt.Cmd)
	}
	if len(opt.Cmd) > 0 {
		return slices.Concat(image.Entrypoint, opt.Cmd)
	}
	return slices.Concat(image.Entrypoint, image.Cmd)
}

// environment is PATH, HOSTNAME, the image's and the user's, one entry a name; HOME is the guest's to find.
func environment(image []string, opt Options) []string {
	base := []string{"PATH=" + defaultPath}
	if opt.Hostname != "" {
		base = append(base, "HOSTNAME="+opt.Hostname)
	}
	return merge(base, image, opt.Env)
}

// merge joins environments, one entry a name; later ones win.
func merge(lists ...[]string) []string {
	var env []string
	index := map[string]int{}
	for _, e := range slices.Concat(lists...) {
		name, _, _ := strings.Cut(e, "=")
		if i, ok := index[name]; ok {
			env[i] = e
			continue
		}
		index[name] = len(env)
		env = append(env, e)
	}
	return env
}

// Lookup returns the value of a variable of the container's environment.
func (c Container) Lookup(name string) (string, bool) {
	for _, e := range c.Env {
		if n, v, ok := strings.Cut(e, "="); ok && n == name {
			return v, true
		}
	}
	return "", false
}

func split(options string) []string {
	if options == "" {
		return nil
	}
	return strings.Split(options, ",")
}

func or(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}
