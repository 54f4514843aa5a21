package guest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/guestapi"
)

// deviceNode is a device file.
type deviceNode struct {
	path         string
	block        bool
	major, minor uint32
	mode         uint32
	uid, gid     uint32
}

// specDevice is an entry of linux.devices of the OCI runtime specification.
type specDevice struct {
	Type     string `json:"type"`
	Path     string `json:"path"`
	Major    uint32 `json:"major"`
	Minor    uint32 `json:"minor"`
	FileMode uint32 `json:"fileMode"`
	UID      uint32 `json:"uid"`
	GID      uint32 `json:"gid"`
}

// ownDevices are in every container's /dev by crun's own hand, or not in any, as in Docker: the console is the container's.
var ownDevices = []string{"/dev/console", "/dev/full", "/dev/fd", "/dev/mqueue", "/dev/null", "/dev/ptmx", "/dev/pts", "/dev/random",
	"/dev/shm", "/dev/tty", "/dev/urandom", "/dev/zero"}

const (
	// maxDevices bounds how many a container gets; a microVM has some 100.
	maxDevices = 4096
	// loopDevices is how many loop devices there are from the start, where the loop driver is a module: the kernel's default
	// (CONFIG_BLK_DEV_LOOP_MIN_COUNT). A container's /dev is made before it loads the driver.
	loopDevices = 8
	loopMajor   = 7
	// modeDevice is what a node of devtmpfs has.
	modeDevice = 0o600
)

// Owners and modes that udev gives on other machines (50-udev-default.rules of systemd): devtmpfs has root's alone.
const (
	modeDisk      = 0o660
	groupDisk     = 6 // of Debian and others
	modeEverybody = 0o666
)

// likeUdev gives a node the mode and group that programs of a container expect.
func (n deviceNode) likeUdev() deviceNode {
	switch {
	case n.mode != modeDevice:
	case n.path == "/dev/fuse" || n.path == "/dev/net/tun" || n.path == "/dev/vfio/vfio":
		n.mode = modeEverybody
	case n.block || n.path == "/dev/loop-control":
		n.mode, n.gid = modeDisk, groupDisk
	}
	return n
}

// addDevices puts what the annotation asks for into linux.devices.
func addDevices(linux object, annotations map[string]string) error {
	switch v := annotations[guestapi.DevicesAnnotation]; v {
	case "":
		return nil
	case guestapi.GuestDevices:
	default:
		return fmt.Errorf("annotation %s: %.64q is unknown", guestapi.DevicesAnnotation, v)
	}
	var devices []json.RawMessage
	if err := linux.get("devices", &devices); err != nil {
		return err
	}
	nodes, err := guestDevices()
	if err != nil {
		return fmt.Errorf("list the guest's devices: %w", err)
	}
	for _, n := range nodes {
		raw, err := json.Marshal(n.likeUdev().spec())
		if err != nil {
			return err
		}
		devices = append(devices, raw)
	}
	return linux.set("devices", devices)
}

func (n deviceNode) spec() specDevice {
	d := specDevice{"c", n.path, n.major, n.minor, n.mode, n.uid, n.gid}
	if n.block {
		d.Type = "b"
	}
	return d
}

// guestDevices are the nodes of the guest's /dev, and those of drivers that are loaded when their node is opened.
func guestDevices() ([]deviceNode, error) {
	nodes, err := walkDevices("/dev")
	if err != nil {
		return nil, err
	}
	dir, err := mountModules(context.Background())
	if errors.Is(err, fs.ErrNotExist) {
		return nodes, nil // a kernel without modules
	}
	var further []deviceNode
	if err == nil {
		further, err = moduleIndex{dir}.devnames()
	}
	if err != nil {
		// The container is as good as without it, but for a device that nobody may ask for.
		slog.Warn("a container has no nodes for devices of modules that are not loaded", "error", err)
		return nodes, nil
	}
	for _, n := range further {
		n.mode = modeDevice
		nodes = appendNew(nodes, n)
		if n.path == "/dev/loop-control" {
			for i := range uint32(loopDevices) {
				nodes = appendNew(nodes,
					deviceNode{path: fmt.Sprintf("/dev/loop%d", i), block: true, major: loopMajor, minor: i, mode: modeDevice})
			}
		}
	}
	return nodes, nil
}

// appendNew adds a node, unless there is one of its path.
func appendNew(nodes []deviceNode, n deviceNode) []deviceNode {
	if slices.ContainsFunc(nodes, func(o deviceNode) bool { return o.path == n.path }) {
		return nodes
	}
	return append(nodes, n)
}

// walkDevices lists the device nodes below root but those that a container has already.
func walkDevices(root string) ([]deviceNode, error) {
	var nodes []deviceNode
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it has gone meanwhile
		}
		if err != nil {
			return err
		}
		if slices.Contains(ownDevices, path) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if d.Type()&os.ModeDevice == 0 {
			return nil
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return nil //nolint:nilerr // it has gone meanwhile
		}
		if len(nodes) == maxDevices {
			return fmt.Errorf("more than %d devices", maxDevices)
		}
		nodes = append(nodes, deviceNode{path: path, block: st.Mode&unix.S_IFMT == unix.S_IFBLK, major: unix.Major(st.Rdev),
			minor: unix.Minor(st.Rdev), mode: st.Mode &^ unix.S_IFMT, uid: st.Uid, gid: st.Gid})
		return nil
	})
	return nodes, err
}
