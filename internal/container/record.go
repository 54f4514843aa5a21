// Package container keeps what is known of each container in a directory that any process can read.
//
//	DATA/containers/<id>/   lock, state.json, timeline.json, rootfs.ext4, logs
//	DATA/names/<name>       a symbolic link to the id
//	RUN/<id>/               sockets, while the container lives
//
// The monitor Creates the directory and holds its lock for as long as it lives: whoever can take the lock knows that no
// monitor lives any more, whatever state.json says. Everybody else Lists and Finds.
package container

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/runcvm/runcvm/internal/timeline"
)

// Record is what state.json holds.
type Record struct {
	ID          string    `json:"id"`
	Name        string    `json:"name"`
	Image       string    `json:"image"`
	ImageDigest string    `json:"image_digest"`
	Command     []string  `json:"command"`
	Created     time.Time `json:"created"`
	Started     time.Time `json:"started,omitzero"`
	Finished    time.Time `json:"finished,omitzero"`
	// State is a state of package sandbox.
	State     string `json:"state"`
	ExitCode  int    `json:"exit_code"`
	OOMKilled bool   `json:"oom_killed,omitempty"`
	// Error says why it ended other than by its process's end.
	Error string `json:"error,omitempty"`
	// LogLost is how many bytes of output the log lacks because its disk was full.
	LogLost int64 `json:"log_lost,omitempty"`
	// Pid is the monitor's, in the host's pid namespace.
	Pid    int    `json:"pid,omitempty"`
	Remove bool   `json:"remove,omitempty"`
	VMM    VMM    `json:"vmm,omitzero"`
	Kernel string `json:"kernel,omitempty"`
}

// VMM is what runs the guest.
type VMM struct {
	Path     string `json:"path"`
	Version  string `json:"version"`
	Emulated bool   `json:"emulated"`
}

// Names of the files in a container's directory.
const (
	stateFile    = "state.json"
	lockFile     = "lock"
	timelineFile = "timeline.json"
	// DiskFile is the writable disk.
	DiskFile = "rootfs.ext4"
	// OutputLog is the container's output (package logfile), ConsoleLog the guest's serial console, VMMLog the VMM's
	// standard error, MonitorLog the monitor's log.
	OutputLog  = "output.log"
	ConsoleLog = "console.log"
	VMMLog     = "vmm.log"
	MonitorLog = "monitor.log"
)

// Names of the sockets in a container's run directory.
const (
	MonitorSocket = "monitor.sock"
	VsockSocket   = "vsock.sock"
)

func writeFileAtomically(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.tmp")
	if err != nil {
		return err
	}
	_, err = tmp.Write(append(b, '\n'))
	err = errors.Join(err, tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return nil
}

func readFile(path string, v any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}

// ReadTimeline returns the container's last start, as it was kept.
func (e *Entry) ReadTimeline() (timeline.Timeline, error) {
	var t timeline.Timeline
	err := readFile(filepath.Join(e.Dir, timelineFile), &t)
	if errors.Is(err, os.ErrNotExist) {
		return t, fmt.Errorf("container %s has no timeline: it has not been started", e.Name)
	}
	return t, err
}
