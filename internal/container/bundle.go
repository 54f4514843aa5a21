package container

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"

	"github.com/containerd/errdefs"

	"github.com/runcvm/runcvm/internal/hostcgroup"
)

// Bundle says of a container that an OCI runtime's create has made it, and of what.
type Bundle struct {
	// Root and ID are what its maker calls it by: the same id may exist in two roots. Nothing of ours lies in Root.
	Root string `json:"root"`
	ID   string `json:"id"`
	// Dir is the bundle's directory, Rootfs the one of its root file system.
	Dir    string `json:"dir"`
	Rootfs string `json:"rootfs"`
	// Version is config.json's ociVersion.
	Version     string            `json:"version"`
	Annotations map[string]string `json:"annotations,omitempty"`
	// BootID is the host's boot that it was made in.
	BootID string `json:"boot_id"`
	// Cgroup is the host's of monitor and VMM.
	Cgroup *hostcgroup.State `json:"cgroup,omitempty"`
}

// BundleID is the id in this store of the container that is called so in this root: whoever knows the two finds the container at once.
func BundleID(root, id string) string {
	sum := sha256.Sum256([]byte(root + "\x00" + id))
	return hex.EncodeToString(sum[:])
}

// BundleNames are the names that a container made of a bundle may have, the best first.
func BundleNames(root, id string) []string {
	name := []byte(id)
	for i, c := range name {
		if !ValidName("a" + string(c)) {
			name[i] = '-'
		}
	}
	plain := string(name)
	if !ValidName(plain) {
		plain = "oci-" + plain
	}
	suffix := "-" + BundleID(root, id)[:8]
	return []string{plain[:min(len(plain), maxName)], plain[:min(len(plain), maxName-len(suffix))] + suffix}
}

// FindBundle returns the container that is called so in this root. errdefs.ErrNotFound, also where it ended with another boot of the
// host: see ClearBundle.
func (s *Store) FindBundle(root, id string) (*Entry, error) {
	e, err := s.open(BundleID(root, id))
	if errors.Is(err, os.ErrNotExist) || err == nil && !e.usable() {
		return nil, fmt.Errorf("container %s of %s: %w", id, root, errdefs.ErrNotFound)
	}
	return e, err
}

// PublicID is the id that the container's maker calls it by.
func (r *Record) PublicID() string {
	if r.Bundle != nil {
		return r.Bundle.ID
	}
	return r.ID
}
