package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/garbage"
)

// Garbage finds what no container owns any more: containers that were to be removed at their end and whose monitor died, those of
// engines that ended with another boot of the host, what interrupted creations and removals left, run directories without a container,
// names of nothing. Containers that have ended and were not to be removed are their users'.
func (s *Store) Garbage(ctx context.Context) ([]garbage.Item, error) {
	var items []garbage.Item
	var errs []error
	dirs, err := os.ReadDir(s.containers())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("look for containers: %w", err)
	}
	for _, d := range dirs {
		found, err := s.garbageIn(d.Name())
		items, errs = append(items, found...), append(errs, err)
	}
	more, err := s.orphanedRunDirs(ctx)
	items, errs = append(items, more...), append(errs, err)
	more, err = s.orphanedNamespaces()
	items, errs = append(items, more...), append(errs, err)
	more, err = s.namesOfNothing()
	return append(items, more...), errors.Join(append(errs, err)...)
}

// garbageIn looks at one directory of a container.
func (s *Store) garbageIn(name string) ([]garbage.Item, error) {
	dir := filepath.Join(s.containers(), name)
	item := garbage.Item{Kind: "container", Path: dir, Size: garbage.Size(dir)}
	if strings.HasPrefix(name, tmpPrefix) {
		if !s.abandoned(name) {
			return nil, nil
		}
		item.Why = "it was never finished, and its maker is gone"
		item.Remove = func(context.Context) (bool, error) {
			s.sweepNew(name)
			_, err := os.Lstat(dir)
			return errors.Is(err, fs.ErrNotExist), nil
		}
		return []garbage.Item{item}, nil
	}
	e, err := s.open(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		item.Why = "its removal was interrupted"
		item.Remove = func(context.Context) (bool, error) { return s.finishRemoval(name) }
		return []garbage.Item{item}, nil
	case err != nil:
		return nil, err
	case e.Alive:
		return nil, nil
	case e.gone():
		item.Why = "its monitor died, and it was run with --rm"
		if e.ofAnotherBoot() {
			item.Why = "the host has been booted since, and the engine makes it anew"
		}
		item.Remove = func(context.Context) (bool, error) { return e.discardIf((*Entry).gone) }
		return []garbage.Item{item}, nil
	case e.ofAnotherBoot():
		item.Why = "the host has been booted since, and the engine makes it anew, without what is written on the disk in it"
		item.Remove = func(context.Context) (bool, error) { return e.discardIf((*Entry).ofAnotherBoot) }
		return []garbage.Item{item}, nil
	}
	return e.leftovers()
}

// abandoned says whether a directory that is being made has no maker any more; see sweepNew.
func (s *Store) abandoned(name string) bool {
	dir := filepath.Join(s.containers(), name)
	info, err := os.Stat(dir)
	if err != nil || time.Since(info.ModTime()) < time.Second {
		return false
	}
	f, err := lock(filepath.Join(dir, lockFile), unix.LOCK_SH)
	if err == nil {
		f.Close()
	}
	return !errors.Is(err, errdefs.ErrUnavailable)
}

// finishRemoval removes a directory without a lock or a state: a container is made with both before it has its name, so only
// a removal leaves it like this.
func (s *Store) finishRemoval(name string) (bool, error) {
	if _, err := s.open(name); !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	return true, os.RemoveAll(filepath.Join(s.containers(), name))
}

// leftovers are the temporary files in the directory of a container that nobody runs.
func (e *Entry) leftovers() ([]garbage.Item, error) {
	items := e.leftNetworks()
	for _, pattern := range []string{"*.tmp", "*.new", ".tree-*"} {
		found, err := filepath.Glob(filepath.Join(e.Dir, pattern))
		if err != nil {
			return nil, err
		}
		for _, path := range found {
			items = append(items, garbage.Item{Kind: "temporary file", Path: path, Size: garbage.Size(path),
				Why: "the process that wrote it is gone",
				Remove: func(context.Context) (bool, error) {
					f, err := lock(filepath.Join(e.Dir, lockFile), unix.LOCK_EX)
					if errors.Is(err, errdefs.ErrUnavailable) || errors.Is(err, fs.ErrNotExist) {
						return false, nil
					}
					if err != nil {
						return false, err
					}
					defer f.Close()
					return true, os.RemoveAll(path)
				}})
		}
	}
	return items, nil
}

// idDigits is the length of an id; see the command's newID.
const idDigits = 64

func isID(name string) bool {
	return len(name) == idDigits && strings.Trim(name, "0123456789abcdef") == ""
}

// orphanedRunDirs finds run directories of containers that are not here, nor anywhere else: a run directory may serve several
// data directories.
func (s *Store) orphanedRunDirs(ctx context.Context) ([]garbage.Item, error) {
	dirs, err := os.ReadDir(s.runDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for run directories: %w", err)
	}
	var items []garbage.Item
	for _, d := range dirs {
		id := d.Name()
		if !d.IsDir() || !isID(id) || !s.orphaned(ctx, id) {
			continue
		}
		path := filepath.Join(s.runDir, id)
		items = append(items, garbage.Item{Kind: "run directory", Path: path, Size: garbage.Size(path), Why: "its container is gone",
			Remove: func(ctx context.Context) (bool, error) {
				if !s.orphaned(ctx, id) {
					return false, nil
				}
				return true, os.RemoveAll(path)
			}})
	}
	return items, nil
}

// orphaned says whether nobody can have the run directory: there is no container, none is being made, no process works in it,
// and none listens there.
func (s *Store) orphaned(ctx context.Context, id string) bool {
	// In this order: the first becomes the second by a rename.
	for _, name := range []string{tmpPrefix + id, id} {
		if _, err := os.Lstat(filepath.Join(s.containers(), name)); !errors.Is(err, fs.ErrNotExist) {
			return false
		}
	}
	dir := filepath.Join(s.runDir, id)
	// A monitor enters its directory as soon as it has made it.
	info, err := os.Lstat(dir)
	if err != nil || time.Since(info.ModTime()) < time.Second {
		return false
	}
	return !worksIn(dir) && !listensIn(ctx, dir)
}

// worksIn says whether a process has its working directory there, as far as /proc shows.
func worksIn(dir string) bool {
	links, _ := filepath.Glob("/proc/[0-9]*/cwd")
	for _, link := range links {
		if at, err := os.Readlink(link); err == nil && at == dir {
			return true
		}
	}
	return false
}

// listensIn says whether a process listens on a socket there.
func listensIn(ctx context.Context, dir string) bool {
	d, err := os.Open(dir)
	if err != nil {
		return false
	}
	defer d.Close()
	entries, err := d.ReadDir(-1)
	if err != nil {
		return false
	}
	dialer := net.Dialer{Timeout: time.Second}
	for _, e := range entries {
		if e.Type() != fs.ModeSocket {
			continue
		}
		// By the directory's descriptor: the path may be longer than a Unix socket's address can be.
		conn, err := dialer.DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), e.Name()))
		if err == nil {
			conn.Close()
			return true
		}
	}
	return false
}

// namesOfNothing finds names whose container is gone. A name is given to a container that is there already.
func (s *Store) namesOfNothing() ([]garbage.Item, error) {
	links, err := os.ReadDir(s.names())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for names: %w", err)
	}
	var items []garbage.Item
	for _, l := range links {
		name, path := l.Name(), filepath.Join(s.names(), l.Name())
		id, err := os.Readlink(path)
		if err != nil || s.exists(id) {
			continue
		}
		items = append(items, garbage.Item{Kind: "name", Path: path, Why: "its container is gone",
			Remove: func(context.Context) (bool, error) {
				names, err := s.lockNames()
				if err != nil {
					return false, err
				}
				defer names.Close()
				if owner, err := os.Readlink(path); err != nil || owner != id || s.exists(id) {
					return false, nil // it is gone, or another's
				}
				return true, os.Remove(filepath.Join(s.names(), name))
			}})
	}
	return items, nil
}

func (s *Store) exists(id string) bool {
	_, err := os.Lstat(filepath.Join(s.containers(), id))
	return !errors.Is(err, fs.ErrNotExist)
}

// Alive returns the containers that have a monitor; unlike List it removes nothing. One whose state cannot be read is an error.
func (s *Store) Alive() ([]*Entry, error) {
	dirs, err := os.ReadDir(s.containers())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for containers: %w", err)
	}
	var alive []*Entry
	var errs []error
	for _, d := range dirs {
		if strings.HasPrefix(d.Name(), tmpPrefix) {
			continue
		}
		e, err := s.open(d.Name())
		switch {
		case errors.Is(err, fs.ErrNotExist): // removed just now
		case err != nil:
			errs = append(errs, err)
		case e.Alive:
			alive = append(alive, e)
		}
	}
	return alive, errors.Join(errs...)
}
