package qemu

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/runcvm/runcvm/internal/emulator/api"
)

// ReplaceDrive puts d's file behind the drive with its id: a new file node, the drive's raw node reopened on it, and the
// size told to the guest.
func (vm *VM) ReplaceDrive(ctx context.Context, d api.Drive) error {
	k := slices.IndexFunc(vm.spec.Drives, func(o api.Drive) bool { return o.DriveID == d.DriveID })
	if k < 0 {
		return fmt.Errorf("no drive %s", d.DriveID)
	}
	vm.mu.Lock()
	old := vm.generation[k]
	vm.generation[k]++
	vm.mu.Unlock()
	file, err := fileNode(k, old+1, d)
	if err != nil {
		return err
	}
	raw, err := rawNode(k, d, file["node-name"])
	if err != nil {
		return err
	}
	size, err := diskSize(*d.PathOnHost)
	if err != nil {
		return err
	}
	if err := vm.qmp.execute(ctx, "blockdev-add", file); err != nil {
		return err
	}
	remove := func(generation int) error {
		return vm.qmp.execute(ctx, "blockdev-del", map[string]any{"node-name": fmt.Sprintf("file%d-%d", k, generation)})
	}
	if err := vm.qmp.execute(ctx, "blockdev-reopen", map[string]any{"options": []any{raw}}); err != nil {
		return errors.Join(err, remove(old+1))
	}
	resize := map[string]any{"node-name": nodeName(k), "size": size - size%sectorSize}
	return errors.Join(vm.qmp.execute(ctx, "block_resize", resize), remove(old))
}
