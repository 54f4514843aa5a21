// Package container keeps what is known of each container in a directory that any process can read.
//
//	DATA/containers/<id>/   lock, state.json, request.json, image.json, timeline.json, rootfs.ext4, logs
//	DATA/names/<name>       a symbolic link to the id
//	RUN/<id>/               sockets, while the container lives
//
// The monitor Creates the directory, or Owns one that there is, and holds its lock for as long as it lives: whoever can take
// the lock knows that no monitor lives any more, whatever state.json says. Everybody else Lists and Finds.
package container

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/cni"
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
	// State is a state of package sandbox, or Restarting.
	State     string `json:"state"`
	ExitCode  int    `json:"exit_code"`
	OOMKilled bool   `json:"oom_killed,omitempty"`
	// Error says why it ended other than by its process's end.
	Error string `json:"error,omitempty"`
	// LogLost is how many bytes of output the log lacks because its disk was full.
	LogLost int64 `json:"log_lost,omitempty"`
	// Pid is the monitor's, in the host's pid namespace; 0 once it has ended.
	Pid    int               `json:"pid,omitempty"`
	Remove bool              `json:"remove,omitempty"`
	Labels map[string]string `json:"labels,omitempty"`
	// RestartCount is how often the restart policy has started it again since somebody did.
	RestartCount int    `json:"restart_count,omitempty"`
	VMM          VMM    `json:"vmm,omitzero"`
	Kernel       string `json:"kernel,omitempty"`
	// Networks are those that it is connected to by CNI plugins while it runs, and Ports the host's that are published.
	Networks []cni.Attachment `json:"networks,omitempty"`
	Ports    []cni.Port       `json:"ports,omitempty"`
	// Bundle is set where an OCI runtime's create has made it; Image is then the bundle's directory.
	Bundle *Bundle `json:"bundle,omitempty"`
}

// Restarting is the state of a container that has ended and is started again by its restart policy.
const Restarting = "restarting"

// VMM is what runs the guest.
type VMM struct {
	Path     string `json:"path"`
	Version  string `json:"version"`
	Emulated bool   `json:"emulated"`
	// MemoryMiB and CPUs are the guest's: the container's limits and what is needed beside them.
	MemoryMiB int64 `json:"memory_mib"`
	CPUs      int   `json:"cpus"`
}

// Names of the files in a container's directory.
const (
	stateFile    = "state.json"
	reserveFile  = "state.reserve"
	lockFile     = "lock"
	timelineFile = "timeline.json"
	// DiskFile is the writable disk.
	DiskFile = "rootfs.ext4"
	// RequestFile is what the container was asked to be, ImageFile the image that it keeps (see image.Store.Hold).
	RequestFile = "request.json"
	ImageFile   = "image.json"
	// EtcDir has the files of /etc that the last start has made for the container.
	EtcDir = "etc"
	// BundleFile is the specification of the bundle that the container was made of, as it was then.
	BundleFile = "bundle.json"
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
	AttachSocket  = "attach.sock"
	VsockSocket   = "vsock.sock"
)

// reserve is how much larger than the state the reserve is, in bytes: an end adds its evidence, some KiB.
const reserve = 64 << 10

// writeState replaces the state in a container's directory, also on a disk that is full: beside it lies a file with room
// for one more, which then becomes the state.
func writeState(dir string, r Record) error {
	path, spare := filepath.Join(dir, stateFile), filepath.Join(dir, reserveFile)
	b, err := json.Marshal(r)
	if err == nil {
		b = append(b, '\n')
		err = replaceFile(path, b)
	}
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		if serr := spendReserve(spare, path, b); serr != nil {
			err = errors.Join(err, serr)
		} else {
			err = nil
		}
	} else if err == nil && r.State != stateStopped {
		err = makeReserve(spare, int64(len(b)+reserve))
	}
	if err != nil {
		return fmt.Errorf("write the container's state: %w", err)
	}
	return nil
}

// makeReserve makes a file of at least this size, with its blocks. Where the file system cannot give blocks in advance
// there is none.
func makeReserve(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size() >= size {
		return nil
	}
	err = unix.Fallocate(int(f.Fd()), 0, 0, size)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return os.Remove(path)
	}
	return err
}

func spendReserve(spare, path string, b []byte) error {
	f, err := os.OpenFile(spare, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(b); err != nil {
		return err
	}
	if err := f.Truncate(int64(len(b))); err != nil {
		return err
	}
	return os.Rename(spare, path)
}

func writeFileAtomically(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return replaceFile(path, append(b, '\n'))
}

// replaceFile gives a file new content at once, also when the power fails: without the sync a file system may have the new name
// before it has the content, and the file is empty then.
func replaceFile(path string, b []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.tmp")
	if err != nil {
		return err
	}
	_, err = tmp.Write(b)
	if err == nil {
		err = tmp.Sync()
	}
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
