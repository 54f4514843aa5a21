package guest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/runcvm/runcvm/internal/guestapi"
)

// container is one container of the guest.
type container struct {
	// task is its own process; the mutex is the container's too.
	task
	id string
	// dir holds its mounts and its bundle; see the methods below.
	dir   string
	named namedStreams
	// process is set once, by Create, before the phase is phaseCreated.
	process *process
	oom     bool
	execs   execs
}

func newContainer(id string) *container {
	c := &container{id: id, dir: filepath.Join(runDir, id)}
	c.task.init("container " + id)
	c.execs.init()
	return c
}

func (c *container) imageDir() string    { return filepath.Join(c.dir, "image") }
func (c *container) startDir() string    { return filepath.Join(c.dir, "start") }
func (c *container) copiesDir() string   { return filepath.Join(c.dir, "copies") }
func (c *container) diskDir() string     { return filepath.Join(c.dir, "disk") }
func (c *container) rootfs() string      { return filepath.Join(c.dir, "rootfs") }
func (c *container) bundle() string      { return filepath.Join(c.dir, "bundle") }
func (c *container) cgroupsPath() string { return filepath.Join(cgroupParent, c.id) }
func (c *container) cgroup() string      { return filepath.Join(cgroupDir, c.cgroupsPath()) }

// finish records how the container's process ended.
func (c *container) finish(e exit) {
	oom := oomKilled(c.cgroup())
	c.mu.Lock()
	c.oom = oom
	c.mu.Unlock()
	c.task.finish(e)
	slog.Debug("container ended", "container", c.id, "code", e.code, "oom", oom)
}

// mount mounts the container's disks and the overlay on them. On an error nothing stays mounted.
func (c *container) mount(ctx context.Context, r *guestapi.CreateRequest) error {
	image, err := findDisk(ctx, "erofs", r.ImageUuid)
	if err != nil {
		return err
	}
	disk, err := findDisk(ctx, "ext4", r.RootfsUuid)
	if err != nil {
		return err
	}
	if r.StartUuid != "" {
		if err := c.mountStart(ctx, r.StartUuid); err != nil {
			return errors.Join(err, c.unmount())
		}
	}
	for _, d := range []string{c.imageDir(), c.diskDir(), c.rootfs(), c.bundle()} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return err
		}
	}
	mounts := []mount{
		{image, c.imageDir(), "erofs", unix.MS_RDONLY | unix.MS_NOATIME, ""},
		// No discard and no lazy initialisation: nothing that works on the disk behind the container's back.
		{disk, c.diskDir(), "ext4", unix.MS_NOATIME, "noinit_itable,errors=remount-ro"},
		{"overlay", c.rootfs(), "overlay", 0, c.overlayOptions()},
	}
	for _, m := range mounts {
		if m.fstype == "overlay" {
			// The topmost layer's root directory is the one that the container would see without the upper directory.
			if err := makeOverlayDirs(c.layers()[0], c.diskDir()); err != nil {
				return errors.Join(err, c.unmount())
			}
		}
		if err := unix.Mount(m.source, m.target, m.fstype, m.flags, m.options); err != nil {
			return errors.Join(fmt.Errorf("mount %s of %s on %s: %w", m.fstype, m.source, m.target, err), c.unmount())
		}
	}
	return nil
}

// overlayOptions are chosen so that the container sees a file system that behaves like a single one: xino gives every file one
// device number and an inode number that stays when it is first written; redirect_dir lets a directory of the image be renamed;
// metacopy is off, so that a change of mode leaves a whole file. index is off: it would tie the disk to one build of the image
// disk, and a container outlives that.
func (c *container) overlayOptions() string {
	return fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s,xino=on,redirect_dir=on,metacopy=off,index=off", strings.Join(c.layers(), ":"),
		filepath.Join(c.diskDir(), guestapi.UpperDir), filepath.Join(c.diskDir(), guestapi.WorkDir))
}

// unmount takes the container's mounts away, the last one first.
func (c *container) unmount() error {
	var errs []error
	for _, dir := range []string{c.rootfs(), c.copiesDir(), c.startDir(), c.diskDir(), c.imageDir()} {
		if err := unmountIfMounted(dir); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func unmountIfMounted(dir string) error {
	err := unix.Unmount(dir, 0)
	if err == nil || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return fmt.Errorf("unmount %s: %w", dir, err)
}

var errClosing = status.Error(codes.FailedPrecondition, "the guest is shutting down")

// registry is the containers of the guest, and what the whole guest has gone through.
type registry struct {
	mu         sync.Mutex
	containers map[string]*container
	setUp      bool
	closing    bool
	networked  bool
	// processes is set when the first process is about to run: from then on somebody sees the clock.
	processes bool
}

func (r *registry) init() { r.containers = map[string]*container{} }

// beginSetup says whether Setup may run: once.
func (r *registry) beginSetup() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.setUp {
		return status.Error(codes.FailedPrecondition, "the guest is set up already")
	}
	r.setUp = true
	return nil
}

func (r *registry) requireSetup() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.setUp {
		return status.Error(codes.FailedPrecondition, "the guest is not set up: Setup comes first")
	}
	return nil
}

// beginNetwork says whether the network may be configured: once, between Setup and the first process.
func (r *registry) beginNetwork() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case !r.setUp:
		return status.Error(codes.FailedPrecondition, "the guest is not set up: Setup comes first")
	case r.networked || r.processes:
		return status.Error(codes.FailedPrecondition, "the network is configured already, or a process has run without")
	}
	r.networked = true
	return nil
}

// beginProcess records that a process is about to run, and says whether it is the guest's first.
func (r *registry) beginProcess() (first bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closing {
		return false, errClosing
	}
	first = !r.processes
	r.processes = true
	return first, nil
}

func (r *registry) processesSeen() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.processes
}

// reserve makes a container under its id, so that a second Create of the same one fails.
func (r *registry) reserve(id string) (*container, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case !r.setUp:
		return nil, status.Error(codes.FailedPrecondition, "the guest is not set up: Setup comes first")
	case r.closing:
		return nil, errClosing
	case r.containers[id] != nil:
		return nil, status.Errorf(codes.AlreadyExists, "container %s exists already", id)
	}
	c := newContainer(id)
	r.containers[id] = c
	return c, nil
}

func (r *registry) forget(c *container) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.containers, c.id)
}

func (r *registry) get(id string) (*container, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.containers[id]
	if c == nil {
		return nil, status.Errorf(codes.NotFound, "no container %.128q in the guest", id)
	}
	return c, nil
}

// close lets no further container in and returns those that there are.
func (r *registry) close() []*container {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closing = true
	var all []*container
	for _, c := range r.containers {
		all = append(all, c)
	}
	return all
}

// validID says whether an id is one of the contract's. It becomes a path, so it is neither "." nor "..".
func validID(id string) bool {
	if id == "" || len(id) > guestapi.MaxContainerID || id == "." || id == ".." {
		return false
	}
	for _, c := range []byte(id) {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '.' || c == '-') {
			return false
		}
	}
	return true
}
