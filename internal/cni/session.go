package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/containernetworking/cni/libcni"

	"github.com/runcvm/runcvm/internal/network"
)

// recordFile, in a container's directory, says what is to be undone of its networks. cacheDir is the library's, beside it.
const (
	recordFile = "network.json"
	cacheDir   = "cni"
)

// record is what recordFile holds.
type record struct {
	ID string `json:"id"`
	// Namespace is the path of the container's.
	Namespace  string   `json:"namespace"`
	PluginDirs []string `json:"plugin_dirs,omitempty"`
	// Networks are those that it is, or may be, connected to.
	Networks []joined `json:"networks,omitempty"`
}

// joined is a network that the container is connected to.
type joined struct {
	Interface    string          `json:"interface"`
	Config       json.RawMessage `json:"config"`
	Capabilities map[string]any  `json:"capabilities,omitempty"`
	// Result is that of the last plugin that was done.
	Result json.RawMessage `json:"result,omitempty"`
}

// Session is a container's networks while it has a monitor.
type Session struct {
	record
	dir string
	// host is the path of the host's network namespace; empty: the calling process's.
	host     string
	reserved *reservation
}

// Open begins with the container's namespace, at a path where network.NewNamespace has mounted it. dir is the container's directory, host
// the path of the network namespace in which plugins run. What an earlier monitor has left is removed first.
func Open(ctx context.Context, dir, id, namespace, host string) (*Session, error) {
	if err := sweep(ctx, dir, host); err != nil {
		return nil, err
	}
	s := &Session{record: record{ID: id, Namespace: namespace}, dir: dir, host: host}
	return s, s.save()
}

// Detach undoes Attach; that there is nothing to undo is no error.
func (s *Session) Detach(ctx context.Context) error {
	if s.reserved != nil {
		s.reserved.close()
		s.reserved = nil
	}
	if len(s.record.Networks) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, pluginTimeout)
	defer cancel()
	for i, j := range slices.Backward(s.record.Networks) {
		list, err := libcni.ConfListFromBytes(j.Config)
		if err == nil {
			err = s.library(&s.record.Networks[i]).DelNetworkList(ctx, list, s.runtime(j))
		}
		if err == nil {
			err = dropUnwritten(j.Config)
		}
		if err != nil {
			return fmt.Errorf("disconnect the container's %s from its network: %w", j.Interface, err)
		}
		s.record.Networks = s.record.Networks[:i]
	}
	return s.save()
}

// Close disconnects the container and removes its namespace.
func (s *Session) Close(ctx context.Context) error {
	// The record stays after an error: the next one to look tries again.
	if err := s.Detach(ctx); err != nil {
		return err
	}
	if err := network.RemoveNamespace(s.Namespace); err != nil {
		return err
	}
	err := os.RemoveAll(filepath.Join(s.dir, cacheDir))
	if err == nil {
		err = os.Remove(filepath.Join(s.dir, recordFile))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // another process may have swept as well
		return fmt.Errorf("forget the container's networks: %w", err)
	}
	return nil
}

// Owns says whether what is to be undone of the networks of a container, by its directory, belongs to this namespace.
func Owns(dir, namespace string) bool {
	var r record
	b, err := os.ReadFile(filepath.Join(dir, recordFile))
	return err == nil && json.Unmarshal(b, &r) == nil && r.Namespace == namespace
}

// Left says whether the directory of a container without a monitor has networks that are to be swept.
func Left(dir string) bool {
	_, err := os.Lstat(filepath.Join(dir, recordFile))
	return err == nil
}

// Sweep disconnects a container that has no monitor, by its directory, and removes its namespace. Plugins run in the calling process's
// network namespace. Without networks it does nothing.
func Sweep(ctx context.Context, dir string) error { return sweep(ctx, dir, "") }

func sweep(ctx context.Context, dir, host string) error {
	s := &Session{dir: dir, host: host}
	b, err := os.ReadFile(filepath.Join(dir, recordFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = json.Unmarshal(b, &s.record)
	}
	if err == nil {
		err = s.Close(ctx)
	}
	if err != nil {
		return fmt.Errorf("remove what is left of the container's networks: %w", err)
	}
	return nil
}

// save writes the record, whole or not at all.
func (s *Session) save() error {
	b, err := json.Marshal(s.record)
	path := filepath.Join(s.dir, recordFile)
	if err == nil {
		err = os.WriteFile(path+".tmp", b, 0o600)
	}
	if err == nil {
		err = os.Rename(path+".tmp", path)
	}
	if err != nil {
		return fmt.Errorf("write down the container's networks: %w", err)
	}
	return nil
}

// library runs the plugins of one network.
func (s *Session) library(j *joined) *libcni.CNIConfig {
	keep := func(result []byte) error {
		j.Result = result
		return s.save()
	}
	return libcni.NewCNIConfigWithCacheDir(s.PluginDirs, filepath.Join(s.dir, cacheDir), newExecutor(s.host, j.Result, keep))
}

// netns is the namespace for plugins; empty where it is gone, as after a start of the host: they undo what they can without it.
func (r record) netns() string {
	if !network.IsNamespace(r.Namespace) {
		return ""
	}
	return r.Namespace
}
