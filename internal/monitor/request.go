// Package monitor is the process around a sandbox: PID 1 of a pid namespace of its own, so that nothing of the sandbox
// outlives it, with its socket, its state directory, and the container's exit code as its own.
//
// On the side of whoever asks, Spawn runs a monitor and returns when the container runs or has failed; Dial reaches one
// that runs. Main is the monitor's side.
package monitor

import (
	"slices"
	"strings"
	"time"

	"github.com/runcvm/runcvm/internal/cni"
	"github.com/runcvm/runcvm/internal/config"
	"github.com/runcvm/runcvm/internal/container"
	"github.com/runcvm/runcvm/internal/oci"
	"github.com/runcvm/runcvm/internal/sandbox"
)

// Request is what a monitor is asked to run. It crosses a pipe as JSON.
type Request struct {
	// Namespace is the path of the network namespace whose interfaces the guest gets; empty: the guest has no network.
	Namespace string `json:"namespace,omitempty"`
	// Attach says to which networks a namespace of the container's own is connected; without any the guest has none of them. Netns is that
	// namespace, which Spawn makes.
	Attach cni.Request `json:"attach,omitzero"`
	Netns  string      `json:"netns,omitempty"`
	// PublishAll publishes the ports that the image exposes, and those of Expose, at ports of the host that are free.
	PublishAll bool       `json:"publish_all,omitempty"`
	Expose     []cni.Port `json:"expose,omitempty"`
	// Names is what the container finds names by.
	Names Names `json:"names,omitzero"`

	ID      string      `json:"id"`
	Name    string      `json:"name"`
	Image   string      `json:"image"`
	Options oci.Options `json:"options"`
	// Settings are the configuration's values by key, as they were in force for the caller.
	Settings []config.Value `json:"settings"`
	// Stdin says whether the container gets the caller's standard input; otherwise it reads /dev/null.
	Stdin bool `json:"stdin,omitempty"`
	// Detach says that the container's output goes to its log alone and that the caller's end does not end it.
	Detach bool `json:"detach,omitempty"`
	// Attached says that the caller holds the container's standard files by a connection of package attach, at whose other end the
	// monitor is from the start: so it is where the container has a terminal.
	Attached bool `json:"attached,omitempty"`
	// Size is of the terminal at the start.
	Size sandbox.Size `json:"size,omitzero"`
	// Remove says that nothing is kept after the end.
	Remove bool `json:"remove,omitempty"`
	// Restart says when it is started again after its end.
	Restart RestartPolicy `json:"restart,omitzero"`
	// Again says that the container is there already, by its id, and is to be started.
	Again bool `json:"again,omitempty"`
	// Maintain says that its process is not to run: files are copied, until the caller lets go.
	Maintain bool `json:"maintain,omitempty"`
	// Bundle is set where the container is made of an OCI bundle, for an OCI runtime's create: it waits for start then.
	Bundle *container.Bundle `json:"bundle,omitempty"`
	// SystemdCgroup says that the bundle's cgroup is systemd's to make.
	SystemdCgroup bool `json:"systemd_cgroup,omitempty"`
	// Timeout is how long the process may run before it gets SIGKILL; 0 is without end.
	Timeout time.Duration `json:"timeout,omitempty"`
	// Zero is when the caller's command began, for the timeline.
	Zero time.Time `json:"zero"`
}

// connected says whether the container is connected to networks by CNI plugins.
func (r Request) connected() bool { return len(r.Attach.Networks) > 0 }

// networked says whether the guest gets what its namespace has of interfaces. A bundle's maker has made that.
func (r Request) networked() bool { return r.connected() || r.Namespace != "" || r.Bundle != nil }

// Restarted returns the request for another start of the container by a caller whose settings these are. What flags of the
// first one have set stays.
func (r Request) Restarted(settings []config.Value, zero time.Time) Request {
	settings = slices.Clone(settings)
	for i, s := range settings {
		was := slices.IndexFunc(r.Settings, func(v config.Value) bool { return v.Key == s.Key && strings.HasPrefix(v.Origin, "--") })
		if was >= 0 {
			settings[i] = r.Settings[was]
		}
	}
	r.Settings, r.Zero, r.Again = settings, zero, true
	return r
}

// status is what a monitor tells its caller: that the container runs, or why not. A caller who waits for the container may hear
// a second word: that it has ended and is started again.
type status struct {
	// Error is empty when the container runs.
	Error string `json:"error,omitempty"`
	// Code is the exit code that goes with Error.
	Code int `json:"code,omitempty"`
	// Busy says that another monitor has the container.
	Busy bool `json:"busy,omitempty"`
	// Ended says that the container has ended with Code and lives on without the caller.
	Ended bool `json:"ended,omitempty"`
}

// Descriptors that a monitor inherits beside its standard files.
const (
	// requestFD is the reading end of a pipe: the request, and then silence until the caller ends or detaches.
	requestFD = 3
	// statusFD is the writing end of the pipe for the status.
	statusFD = 4
	// hostNetFD is the host's network namespace, where Spawn has made one for the container. Between the two is attachFD.
	hostNetFD = 6
)

// ExitFailure is the exit code of a container that could not be run at all, as Docker has it.
const ExitFailure = 125
