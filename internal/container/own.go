package container

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// ErrOwned says that another process owns the container.
var ErrOwned = errors.New("the container has a monitor")

// Own takes a container that no monitor owns, for another start, and returns its state. ErrOwned says that another process owns
// it, errdefs.ErrNotFound that it is gone.
func (s *Store) Own(id string) (*Handle, Record, error) {
	h := &Handle{store: s, Dir: filepath.Join(s.containers(), id), RunDir: filepath.Join(s.runDir, id)}
	var err error
	// Who lists containers holds the lock for some microseconds.
	h.lock, err = retryLock(func() (*os.File, error) { return lock(filepath.Join(h.Dir, lockFile), unix.LOCK_EX) })
	if errors.Is(err, os.ErrNotExist) {
		return nil, Record{}, fmt.Errorf("container %s is gone: %w", Short(id), errdefs.ErrNotFound)
	}
	if errors.Is(err, errdefs.ErrUnavailable) {
		return nil, Record{}, fmt.Errorf("start container %s: %w", Short(id), ErrOwned)
	}
	if err != nil {
		return nil, Record{}, err
	}
	r, err := h.takeOver()
	if err != nil {
		return nil, Record{}, errors.Join(err, h.lock.Close())
	}
	return h, r, nil
}

// takeOver reads the state of a container whose lock is held, and makes its run directory.
func (h *Handle) takeOver() (Record, error) {
	id := filepath.Base(h.Dir)
	// The lock is worth nothing if the directory was removed before it was taken.
	held, err := h.lock.Stat()
	if err != nil {
		return Record{}, fmt.Errorf("look at the container's lock: %w", err)
	}
	there, err := os.Stat(filepath.Join(h.Dir, lockFile))
	if errors.Is(err, os.ErrNotExist) || err == nil && !os.SameFile(held, there) {
		return Record{}, fmt.Errorf("container %s is gone: %w", Short(id), errdefs.ErrNotFound)
	}
	if err != nil {
		return Record{}, fmt.Errorf("look at the container's lock: %w", err)
	}
	e := &Entry{store: h.store, Dir: h.Dir, RunDir: h.RunDir}
	if err := readFile(filepath.Join(h.Dir, stateFile), &e.Record); err != nil {
		return Record{}, fmt.Errorf("container %s cannot be started, only removed: its state.json is damaged: %w", Short(id), err)
	}
	if e.orphaned() {
		e.adopt()
	}
	// What a monitor that was killed has left in it is of no use.
	if err := errors.Join(os.RemoveAll(h.RunDir), os.MkdirAll(h.RunDir, 0o700)); err != nil {
		return Record{}, fmt.Errorf("make the container's run directory: %w", err)
	}
	return e.Record, nil
}

// WriteRequest keeps what the container was asked to be, for its next start. It holds the container's environment.
func (h *Handle) WriteRequest(v any) error {
	if err := writeFileAtomically(filepath.Join(h.Dir, RequestFile), v); err != nil {
		return fmt.Errorf("write what the container is to be: %w", err)
	}
	return nil
}

// ReadRequest gives back what WriteRequest kept.
func (e *Entry) ReadRequest(v any) error {
	if err := readFile(filepath.Join(e.Dir, RequestFile), v); err != nil {
		return fmt.Errorf("read what container %s is to be: %w", e.Name, err)
	}
	return nil
}

// Rename gives a container another name. errdefs.ErrAlreadyExists says that the name is in use.
func (h *Handle) Rename(r *Record, name string) error {
	if name == r.Name {
		return fmt.Errorf("the container has the name %s already: %w", name, errdefs.ErrAlreadyExists)
	}
	if err := h.store.claim(name, r.ID); err != nil {
		return err
	}
	old := r.Name
	r.Name = name
	if err := writeState(h.Dir, *r); err != nil {
		r.Name = old
		return errors.Join(err, h.store.release(name, r.ID))
	}
	return errors.Join(h.store.release(old, r.ID), h.Event(*r, "rename", map[string]string{"oldName": "/" + old}))
}

// Get returns the container with this whole id of the store. errdefs.ErrNotFound.
func (s *Store) Get(id string) (*Entry, error) {
	return (&Entry{store: s, Record: Record{ID: id, Name: Short(id)}}).Again()
}

// WriteBundle keeps the specification that the container is made of, for what is asked of it later.
func (h *Handle) WriteBundle(v any) error {
	if err := writeFileAtomically(filepath.Join(h.Dir, BundleFile), v); err != nil {
		return fmt.Errorf("write the container's specification: %w", err)
	}
	return nil
}

// Again looks at the container once more. errdefs.ErrNotFound says that it is gone.
func (e *Entry) Again() (*Entry, error) {
	now, err := e.store.open(e.ID)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("container %s is gone: %w", e.Name, errdefs.ErrNotFound)
	}
	return now, err
}
