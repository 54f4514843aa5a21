package container

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// BootID is the host's boot, as the kernel names it (random(4)); empty where this process cannot tell. It is looked up once: a process
// that gives itself another /proc, on which somebody may have put another id, calls it before.
var BootID = sync.OnceValue(func() string {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
})

// ofAnotherBoot says whether an engine's container was ended by the host's end. Engines expect of a runtime that it has forgotten such a
// container, as those have that keep their state in /run: none deletes it, and its next start is a create.
func (e *Entry) ofAnotherBoot() bool {
	now := BootID()
	// One whose boot is not known is taken for this one's: it was made by a process that could not tell.
	return e.Bundle != nil && !e.Alive && now != "" && e.Bundle.BootID != "" && e.Bundle.BootID != now
}

// holdsDisk says whether what the container has written is in its own directory, where no engine's store keeps it.
func (e *Entry) holdsDisk() bool {
	_, err := os.Lstat(filepath.Join(e.Dir, DiskFile))
	return !errors.Is(err, os.ErrNotExist)
}

// ClearBundle removes what there may be of a container that FindBundle does not find, so that another can be made that is called so. The
// cgroup and the network namespace of one of another boot are none of it: they went with that boot, and what is there now in their places
// is somebody else's. Those of one whose state is damaged are not known any more.
func (s *Store) ClearBundle(root, id string) error {
	name := BundleID(root, id)
	s.sweepNew(tmpPrefix + name)
	e, err := s.open(name)
	switch {
	case errors.Is(err, os.ErrNotExist):
		// Only a removal leaves a directory without a state.
		if _, err := os.Lstat(filepath.Join(s.containers(), name)); errors.Is(err, os.ErrNotExist) {
			return nil
		}
		_, err = s.finishRemoval(name)
		return err
	case err != nil:
		return err
	}
	_, err = e.discardIf(func(e *Entry) bool { return !e.usable() })
	return err
}

// usable says whether an engine is still to know its container. One whose state a power failure has damaged is nothing to it.
func (e *Entry) usable() bool { return e.Bundle != nil && !e.ofAnotherBoot() }
