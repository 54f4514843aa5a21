package cni

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/filelock"
)

// leaseDir is where the plugin host-local keeps its leases, in a directory for each network, unless its dataDir says otherwise.
const leaseDir = "/var/lib/cni/networks"

// dropUnwritten removes leases of host-local that are nobody's, of the network with this configuration list. The plugin makes an address's
// file and then writes whose it is; killed in between, it leaves one that no later call of it gives back.
func dropUnwritten(list []byte) error {
	var config struct {
		Name    string
		Plugins []struct {
			IPAM struct{ Type, DataDir string }
		}
	}
	if err := json.Unmarshal(list, &config); err != nil {
		return err
	}
	for _, p := range config.Plugins {
		if p.IPAM.Type != "host-local" {
			continue
		}
		if err := dropEmpty(filepath.Join(cmp.Or(p.IPAM.DataDir, leaseDir), config.Name)); err != nil {
			return fmt.Errorf("give back addresses of network %s that a killed plugin has left: %w", config.Name, err)
		}
	}
	return nil
}

// dropEmpty does so in one directory, under the lock that host-local holds while it makes a lease: whatever is empty then stays so.
func dropEmpty(dir string) error {
	lock, err := os.Open(filepath.Join(dir, "lock"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // there has been no lease
	}
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }() // and unlocks
	if err := filelock.Wait(context.Background(), lock, unix.LOCK_EX); err != nil {
		return err
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, f := range files {
		if _, err := netip.ParseAddr(f.Name()); err != nil {
			continue // the lock, or the last address that was given
		}
		if info, err := f.Info(); err != nil || info.Size() > 0 {
			continue
		}
		if err := os.Remove(filepath.Join(dir, f.Name())); err != nil {
			return err
		}
	}
	return nil
}
