package qemu

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"

	"github.com/runcvm/runcvm/internal/emulator/api"
)

// ReplaceDrive puts d's file behind the drive with its id: a new node for the file, the drive's own node reopened on it, and
// the size told to the guest. When it fails the old file stays behind the drive.
func (vm *VM) ReplaceDrive(ctx context.Context, d api.Drive) error {
	k := slices.IndexFunc(vm.spec.Drives, func(o api.Drive) bool { return o.DriveID == d.DriveID })
	if k < 0 {
		return fmt.Errorf("no drive %s", d.DriveID)
	}
	size, err := diskSize(*d.PathOnHost)
	if err != nil {
		return err
	}
	old := vm.node[k]
	fresh := fmt.Sprintf("file%d-%d", k, vm.files)
	vm.files++
	if *d.IsReadOnly || size%sectorSize != 0 {
		err = vm.addServed(ctx, d, fresh, size)
	} else {
		err = vm.addFile(ctx, d, fresh)
	}
	if err != nil {
		return err
	}
	raw := func(file string) map[string]any {
		return map[string]any{"options": []any{map[string]any{
			// Not read-only even for a drive that is: QEMU resizes no other. The guest cannot write it all the same: the
			// device has been made read-only, and what lies below is.
			"driver": "raw", "node-name": nodeName(k), "read-only": false, "file": file,
		}}}
	}
	remove := func(node string) error {
		return vm.qmp.execute(ctx, "blockdev-del", map[string]any{"node-name": node})
	}
	if err := vm.qmp.execute(ctx, "blockdev-reopen", raw(fresh)); err != nil {
		return errors.Join(err, remove(fresh))
	}
	vm.node[k] = fresh
	resize := map[string]any{"node-name": nodeName(k), "size": size - size%sectorSize}
	return errors.Join(vm.qmp.execute(ctx, "block_resize", resize), remove(old))
}

// addFile makes a node that opens the file itself.
func (vm *VM) addFile(ctx context.Context, d api.Drive, node string) error {
	file, err := fileNode(d, node)
	if err != nil {
		return err
	}
	return vm.qmp.execute(ctx, "blockdev-add", file)
}

// addServed makes a node whose data this process serves; see [nbdDisk].
func (vm *VM) addServed(ctx context.Context, d api.Drive, node string, size int64) (err error) {
	mode := os.O_RDWR
	if *d.IsReadOnly {
		mode = os.O_RDONLY
	}
	f, err := os.OpenFile(*d.PathOnHost, mode, 0)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "firecracker-qemu-")
	if err != nil {
		return errors.Join(err, f.Close())
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	path := filepath.Join(dir, "nbd")
	l, err := net.Listen("unix", path)
	if err != nil {
		return errors.Join(err, f.Close())
	}
	disk := &nbdDisk{file: f, size: size - size%sectorSize, write: !*d.IsReadOnly, sync: d.CacheType != "Unsafe"}
	go func() {
		defer f.Close()
		conn, err := l.Accept()
		if err != nil {
			return // QEMU did not come: its own error says why
		}
		defer conn.Close()
		if err := disk.serve(conn); err != nil && vm.Alive() {
			vm.log.Error("a drive has failed", "drive", d.DriveID, "err", err)
		}
	}()
	defer l.Close()
	return vm.qmp.execute(ctx, "blockdev-add", map[string]any{
		"driver": "nbd", "node-name": node, "server": map[string]any{"type": "unix", "path": path},
		"cache": map[string]any{"direct": false, "no-flush": d.CacheType == "Unsafe"},
	})
}
