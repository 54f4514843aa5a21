package container

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/runcvm/runcvm/internal/cni"
	"github.com/runcvm/runcvm/internal/garbage"
	"github.com/runcvm/runcvm/internal/network"
)

// namespacesDir, in the run directory, has the network namespaces of containers that are connected to networks.
const namespacesDir = "netns"

// namespaceAge is how old a namespace is at least that nobody owns: it is made before the monitor has its container.
const namespaceAge = time.Minute

// NewNamespacePath is where the network namespace of a container's next monitor is mounted: of two that begin at once, each has its own.
// The name says in which data directory the container is, since a run directory may serve several.
func NewNamespacePath(dataDir, runDir, id string) string {
	b := make([]byte, 4)
	rand.Read(b)
	return filepath.Join(runDir, namespacesDir, strings.Join([]string{id, namespaceMark(dataDir), hex.EncodeToString(b)}, "."))
}

// namespaceMark is a data directory's in the names of its containers' namespaces.
func namespaceMark(dataDir string) string {
	h := fnv.New32a()
	h.Write([]byte(dataDir))
	return hex.EncodeToString(h.Sum(nil))
}

// orphanedNamespaces finds those whose container has no monitor, nor a record of them.
func (s *Store) orphanedNamespaces() ([]garbage.Item, error) {
	dir := filepath.Join(s.runDir, namespacesDir)
	files, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for network namespaces: %w", err)
	}
	var items []garbage.Item
	for _, f := range files {
		path := filepath.Join(dir, f.Name())
		if !s.orphanedNamespace(path) {
			continue
		}
		items = append(items, garbage.Item{Kind: "network namespace", Path: path, Why: "its container has no monitor",
			Remove: func(context.Context) (bool, error) {
				if !s.orphanedNamespace(path) {
					return false, nil
				}
				return true, network.RemoveNamespace(path)
			}})
	}
	return items, nil
}

func (s *Store) orphanedNamespace(path string) bool {
	id, rest, _ := strings.Cut(filepath.Base(path), ".")
	mark, _, _ := strings.Cut(rest, ".")
	at, err := os.Lstat(path)
	if err != nil || !isID(id) || mark != namespaceMark(s.dataDir) || time.Since(at.ModTime()) < namespaceAge {
		return false
	}
	e, err := s.open(id)
	return errors.Is(err, fs.ErrNotExist) || err == nil && !e.Alive && !cni.Left(e.Dir)
}

// leftNetworks are those of a container that nobody runs and that could not be disconnected when it was found.
func (e *Entry) leftNetworks() []garbage.Item {
	if !cni.Left(e.Dir) {
		return nil
	}
	return []garbage.Item{{Kind: "network", Path: e.Dir, Why: "its container's monitor died",
		Remove: func(ctx context.Context) (bool, error) {
			f, err := e.lockToRemove()
			if errors.Is(err, errdefs.ErrUnavailable) || errors.Is(err, fs.ErrNotExist) {
				return false, nil
			}
			if err != nil {
				return false, err
			}
			defer f.Close()
			return true, cni.Sweep(ctx, e.Dir)
		}}}
}
