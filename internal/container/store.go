package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/cleanup"
	"github.com/runcvm/runcvm/internal/cni"
	"github.com/runcvm/runcvm/internal/events"
	"github.com/runcvm/runcvm/internal/timeline"
)

// Store is all containers of one data directory. It may be used by several processes at once.
type Store struct {
	dataDir, runDir string
	events          *events.Log
}

// New returns the store in dataDir and runDir, both absolute. Nothing is read or made before the first call.
func New(dataDir, runDir string) *Store {
	return &Store{dataDir: dataDir, runDir: runDir, events: events.Open(dataDir)}
}

// Handle is a container that this process owns: it holds its lock.
type Handle struct {
	store *Store
	lock  *os.File
	// Dir and RunDir are the container's directories.
	Dir, RunDir string
}

// maxName bounds a container's name, in bytes.
const maxName = 128

// ValidName says whether a container may be called so: Docker's rule. It is no regular expression, since compiling one would be a
// part of every start.
func ValidName(name string) bool {
	for i, c := range []byte(name) {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !letter && (i == 0 || c != '_' && c != '.' && c != '-') {
			return false
		}
	}
	return name != "" && len(name) <= maxName
}

// tmpPrefix marks a directory that is being made.
const tmpPrefix = ".new-"

// Dir is the directory of a container in a data directory.
func Dir(dataDir, id string) string { return filepath.Join(dataDir, "containers", id) }

func (s *Store) containers() string { return filepath.Join(s.dataDir, "containers") }
func (s *Store) names() string      { return filepath.Join(s.dataDir, "names") }

// Create makes the directories of a new container and takes its lock. errdefs.ErrAlreadyExists says that the name is in use.
func (s *Store) Create(ctx context.Context, r Record) (_ *Handle, err error) {
	for _, dir := range []string{s.containers(), s.names(), s.runDir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make %s: %w", dir, err)
		}
	}
	h := &Handle{store: s, Dir: filepath.Join(s.containers(), r.ID), RunDir: filepath.Join(s.runDir, r.ID)}
	var undo cleanup.Stack
	defer func() {
		if err != nil {
			err = errors.Join(err, undo.Run(ctx, time.Second))
		}
	}()
	// Made under another name and renamed: nobody sees a directory without lock and state.
	tmp := filepath.Join(s.containers(), tmpPrefix+r.ID)
	if err := os.Mkdir(tmp, 0o700); err != nil {
		return nil, fmt.Errorf("make the container's directory: %w", err)
	}
	undo.AddFunc(func() error { return errors.Join(os.RemoveAll(tmp), os.RemoveAll(h.Dir)) })
	if err := os.WriteFile(filepath.Join(tmp, lockFile), nil, 0o600); err != nil {
		return nil, fmt.Errorf("make the container's lock: %w", err)
	}
	if h.lock, err = lock(filepath.Join(tmp, lockFile), unix.LOCK_EX); err != nil {
		return nil, err
	}
	undo.AddFunc(h.lock.Close)
	if err := writeState(tmp, r); err != nil {
		return nil, err
	}
	if err := os.Mkdir(h.RunDir, 0o700); err != nil {
		return nil, fmt.Errorf("make the container's run directory: %w", err)
	}
	undo.AddFunc(func() error { return os.RemoveAll(h.RunDir) })
	if err := os.Rename(tmp, h.Dir); err != nil {
		return nil, fmt.Errorf("make the container's directory: %w", err)
	}
	if err := s.claim(r.Name, r.ID); err != nil {
		return nil, err
	}
	undo.Release()
	return h, nil
}

// claim takes the name for the id. A name whose container is gone is free.
func (s *Store) claim(name, id string) error {
	names, err := s.lockNames()
	if err != nil {
		return err
	}
	defer names.Close()
	link := filepath.Join(s.names(), name)
	owner, err := os.Readlink(link)
	if err == nil && owner == id {
		return nil // of one that was called so before, and whose state was lost
	}
	if err == nil {
		e, err := s.open(owner)
		switch {
		case err == nil && !e.gone():
			return fmt.Errorf("the name %q is in use by container %s (%s); remove it with \"runcvm rm %s\" or choose another: %w",
				name, Short(owner), e.State, name, errdefs.ErrAlreadyExists)
		case err != nil && !errors.Is(err, os.ErrNotExist):
			return fmt.Errorf("the name %q is in use: %w", name, err)
		}
		err = os.Remove(link)
		if err != nil {
			return fmt.Errorf("free the name %s: %w", name, err)
		}
	}
	if err := os.Symlink(id, link); err != nil {
		return fmt.Errorf("claim the name %s: %w", name, err)
	}
	return nil
}

// release gives the name up if it is the id's.
func (s *Store) release(name, id string) error {
	names, err := s.lockNames()
	if err != nil {
		return err
	}
	defer names.Close()
	link := filepath.Join(s.names(), name)
	if owner, err := os.Readlink(link); err != nil || owner != id {
		return nil
	}
	return os.Remove(link)
}

// lockNames takes the lock without which no name is given or taken back: looking at its owner and acting on that are two
// steps. It is held for some system calls.
func (s *Store) lockNames() (*os.File, error) {
	return retryLock(func() (*os.File, error) { return flock(s.names(), os.O_RDONLY, unix.LOCK_EX) })
}

// lock opens the existing file and locks it: LOCK_EX for a monitor or a removal, LOCK_SH to see whether there is a monitor.
// errdefs.ErrUnavailable says that another process holds it.
func lock(path string, how int) (*os.File, error) { return flock(path, os.O_RDWR, how) }

func flock(path string, flags, how int) (*os.File, error) {
	f, err := os.OpenFile(path, flags, 0)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s is held by another process: %w", path, errdefs.ErrUnavailable)
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}

const (
	// lockPatience is how long a lock is waited for that others hold for some microseconds, on a machine that has other
	// things to do.
	lockPatience = 2 * time.Second
	lockPause    = 5 * time.Millisecond
)

// retryLock tries again for a moment while another process holds the lock.
func retryLock(try func() (*os.File, error)) (*os.File, error) {
	for end := time.Now().Add(lockPatience); ; time.Sleep(lockPause) {
		f, err := try()
		if !errors.Is(err, errdefs.ErrUnavailable) || time.Now().After(end) {
			return f, err
		}
	}
}

// Update replaces the container's state.
func (h *Handle) Update(r Record) error { return writeState(h.Dir, r) }

// WriteTimeline keeps the container's start.
func (h *Handle) WriteTimeline(t timeline.Timeline) error {
	return writeFileAtomically(filepath.Join(h.Dir, timelineFile), t)
}

// Close gives the container up: its sockets go, its directory stays, or goes too with remove, unless it could not be disconnected from
// its networks: what is to be undone of them is written there.
func (h *Handle) Close(name string, remove bool) error {
	err := os.RemoveAll(h.RunDir)
	if remove && !cni.Left(h.Dir) {
		var r Record
		known := readFile(filepath.Join(h.Dir, stateFile), &r) == nil
		err = errors.Join(err, h.store.removeFiles(name, h.Dir))
		if known {
			err = errors.Join(err, h.store.emit(r, "destroy", nil))
		}
	}
	return errors.Join(err, h.lock.Close())
}

func (s *Store) removeFiles(name, dir string) error {
	// The directory first: a name without it is free, it without a name would have none for ever.
	err := os.RemoveAll(dir)
	return errors.Join(err, s.release(name, filepath.Base(dir)))
}

// Entry is a container as found on disk.
type Entry struct {
	Record
	Dir, RunDir string
	// Alive says whether a monitor held the container's lock.
	Alive bool

	store *Store
}

// Short is an id as it is shown to people.
func Short(id string) string { return id[:min(len(id), 12)] }

// gone says whether nothing of the container is kept: its monitor has died, and it was to be removed at its end, or it was an engine's,
// which has forgotten it, and has all that it has written.
func (e *Entry) gone() bool {
	return !e.Alive && e.State == stateStopped && (e.Remove || e.ofAnotherBoot() && !e.holdsDisk())
}

// orphaned says whether the container had a monitor that did not write its end. One that was only created has had none.
func (e *Entry) orphaned() bool {
	return e.State != stateStopped && (e.State != stateCreated || e.Pid != 0)
}

func (s *Store) open(id string) (*Entry, error) {
	e := &Entry{store: s, Dir: filepath.Join(s.containers(), id), RunDir: filepath.Join(s.runDir, id)}
	// The lock before the state: a monitor writes its last state before it lets go.
	f, err := lock(filepath.Join(e.Dir, lockFile), unix.LOCK_SH)
	switch {
	case errors.Is(err, errdefs.ErrUnavailable):
		e.Alive = true
	case err != nil:
		return nil, err
	default:
		defer f.Close()
	}
	if err := e.readState(); err != nil {
		return nil, err
	}
	return e, nil
}

// readState reads the state of a container of which it is known whether it is alive. The caller holds the lock of one that is not: an end
// that its monitor could not write is written.
func (e *Entry) readState() error {
	id := filepath.Base(e.Dir)
	err := readFile(filepath.Join(e.Dir, stateFile), &e.Record)
	switch {
	case errors.Is(err, os.ErrNotExist), err != nil && e.Alive:
		return fmt.Errorf("read the state of container %s: %w", Short(id), err)
	case err != nil:
		// As a power failure can leave it. The container can be seen and removed.
		e.Record = Record{ID: id, Name: Short(id), State: stateStopped, ExitCode: exitKilled,
			Error: fmt.Sprintf("state.json is damaged: %v", err)}
	case !e.Alive && e.orphaned():
		e.adopt()
	}
	if !e.Alive {
		e.Pid = 0
	}
	return nil
}

// The states that this package itself must know of package sandbox, which it may not import.
const (
	stateStopped = "stopped"
	stateCreated = "created"
	// exitKilled is the exit code of a container that was ended with its monitor: 128 + SIGKILL.
	exitKilled = 137
)

// adopt writes the end of a container whose monitor died before it could. The caller holds the lock.
func (e *Entry) adopt() {
	died := e.State != Restarting // otherwise its last process has ended, and that is told
	e.State, e.ExitCode = stateStopped, exitKilled
	e.Error = "the monitor was killed"
	e.Finished = time.Now()
	e.Networks, e.Ports = nil, nil
	// Whoever comes next, or gc, does the same if it fails.
	_ = cni.Sweep(context.Background(), e.Dir)
	if writeState(e.Dir, e.Record) == nil && died {
		_ = e.store.emit(e.Record, "die", map[string]string{"exitCode": strconv.Itoa(exitKilled)})
	}
	_ = os.RemoveAll(e.RunDir)
}

// List returns all containers, the newest first, and removes what no monitor owns and nobody wants.
func (s *Store) List() ([]*Entry, error) {
	ids, err := os.ReadDir(s.containers())
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	var entries []*Entry
	var errs []error
	for _, id := range ids {
		if strings.HasPrefix(id.Name(), tmpPrefix) {
			s.sweepNew(id.Name())
			continue
		}
		e, err := s.open(id.Name())
		switch {
		case errors.Is(err, os.ErrNotExist): // removed just now
		case err != nil:
			errs = append(errs, err)
		case e.gone():
			_, err := e.discardIf((*Entry).gone)
			errs = append(errs, err)
		default:
			entries = append(entries, e)
		}
	}
	slices.SortFunc(entries, func(a, b *Entry) int { return b.Created.Compare(a.Created) })
	return entries, errors.Join(errs...)
}

// sweepNew removes a directory whose maker died in the middle. One second is far above the time between its mkdir and
// its lock.
func (s *Store) sweepNew(name string) {
	dir := filepath.Join(s.containers(), name)
	info, err := os.Stat(dir)
	if err != nil || time.Since(info.ModTime()) < time.Second {
		return
	}
	f, err := lock(filepath.Join(dir, lockFile), unix.LOCK_EX)
	if errors.Is(err, errdefs.ErrUnavailable) {
		return
	}
	if err == nil {
		defer f.Close()
	}
	_ = os.RemoveAll(dir)
	_ = os.RemoveAll(filepath.Join(s.runDir, strings.TrimPrefix(name, tmpPrefix)))
}

// Find returns the container with this name, id, or unambiguous beginning of an id. errdefs.ErrNotFound.
func (s *Store) Find(ref string) (*Entry, error) {
	all, err := s.List()
	var found, called []*Entry
	for _, e := range all {
		if e.Name == ref || e.ID == ref {
			return e, nil
		}
		if e.PublicID() == ref {
			called = append(called, e)
		}
		if ref != "" && (strings.HasPrefix(e.ID, ref) || strings.HasPrefix(e.PublicID(), ref)) {
			found = append(found, e)
		}
	}
	switch len(called) {
	case 0:
	case 1:
		return called[0], nil
	default:
		return nil, fmt.Errorf("%d containers are called %q by the engines that made them: name the one that you mean, %s: %w", len(called), ref,
			namesOf(called), errdefs.ErrInvalidArgument)
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return nil, errors.Join(fmt.Errorf("no container %q; \"runcvm ps -a\" lists them: %w", ref, errdefs.ErrNotFound), err)
	}
	return nil, fmt.Errorf("%q is the beginning of %d ids: %w", ref, len(found), errdefs.ErrInvalidArgument)
}

func namesOf(all []*Entry) string {
	var names []string
	for _, e := range all {
		names = append(names, e.Name)
	}
	return strings.Join(names, " or ")
}

// Discard removes a container without a monitor. errdefs.ErrFailedPrecondition says that it has one.
func (e *Entry) Discard() error {
	f, err := e.lockToRemove()
	if errors.Is(err, errdefs.ErrUnavailable) {
		return fmt.Errorf("container %s is %s: %w", e.Name, e.State, errdefs.ErrFailedPrecondition)
	}
	if errors.Is(err, os.ErrNotExist) {
		return nil // somebody else was faster
	}
	if err != nil {
		return err
	}
	defer f.Close()
	return e.discardLocked()
}

// discardIf is Discard of a container of which that is still true when its lock is held, and says whether it was: an engine makes
// containers anew by the ids of those that it had before.
func (e *Entry) discardIf(still func(*Entry) bool) (bool, error) {
	f, err := e.lockToRemove()
	if errors.Is(err, errdefs.ErrUnavailable) || errors.Is(err, os.ErrNotExist) {
		return false, nil // it has begun another life, or somebody else was faster
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	now := &Entry{store: e.store, Dir: e.Dir, RunDir: e.RunDir}
	if err := now.readState(); errors.Is(err, os.ErrNotExist) || err == nil && !still(now) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	return true, now.discardLocked()
}

func (e *Entry) discardLocked() error {
	if _, err := os.Stat(e.Dir); errors.Is(err, os.ErrNotExist) {
		return nil // somebody else was faster
	}
	// With the record of its networks in the directory nobody could disconnect it any more.
	if err := cni.Sweep(context.Background(), e.Dir); err != nil {
		return fmt.Errorf("container %s is not removed: %w", e.Name, err)
	}
	return errors.Join(os.RemoveAll(e.RunDir), e.store.removeFiles(e.Name, e.Dir), e.store.emit(e.Record, "destroy", nil))
}

// lockToRemove waits a moment for the lock: whoever lists containers holds it shared for some microseconds.
func (e *Entry) lockToRemove() (*os.File, error) {
	return retryLock(func() (*os.File, error) { return lock(filepath.Join(e.Dir, lockFile), unix.LOCK_EX) })
}

// AwaitEnd waits until the container's monitor has let go of it, or ctx ends.
func (e *Entry) AwaitEnd(ctx context.Context) error {
	for {
		f, err := lock(filepath.Join(e.Dir, lockFile), unix.LOCK_SH)
		if err == nil {
			return f.Close()
		}
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if !errors.Is(err, errdefs.ErrUnavailable) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the monitor of %s (pid %d) does not end: %w", e.Name, e.Pid, ctx.Err())
		case <-time.After(lockPause):
		}
	}
}
