package guest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// diskTimeout is how long a disk may take to appear: the VMM has it from before the boot, so only its driver is waited for.
const diskTimeout = 10 * time.Second

// superblock is what tells one disk from another; the order and the names of devices do not.
type superblock struct {
	fstype string // erofs or ext4; empty when it is neither
	uuid   string
}

// Superblocks of EROFS and ext4 both begin at byte 1024 (the kernel's fs/erofs/erofs_fs.h and fs/ext4/ext4.h).
const (
	superOffset = 1024
	superSize   = 256
	erofsMagic  = 0xE0F5E1E2
	erofsUUID   = 48
	ext4Magic   = 0xEF53
	ext4MagicAt = 0x38
	ext4UUID    = 0x68
)

// readSuperblock reads a disk's superblock. A disk that is too short for one has none.
func readSuperblock(r io.ReaderAt) (superblock, error) {
	var b [superSize]byte
	if _, err := r.ReadAt(b[:], superOffset); errors.Is(err, io.EOF) {
		return superblock{}, nil
	} else if err != nil {
		return superblock{}, err
	}
	switch {
	case binary.LittleEndian.Uint32(b[:]) == erofsMagic:
		return superblock{"erofs", formatUUID(b[erofsUUID:])}, nil
	case binary.LittleEndian.Uint16(b[ext4MagicAt:]) == ext4Magic:
		return superblock{"ext4", formatUUID(b[ext4UUID:])}, nil
	}
	return superblock{}, nil
}

func formatUUID(b []byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

// findDisk returns the device with this file system, waiting for it to appear.
func findDisk(ctx context.Context, fstype, uuid string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, diskTimeout)
	defer cancel()
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		device, seen, err := scanDisks(fstype, uuid)
		if device != "" || err != nil {
			return device, err
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("no %s disk with UUID %s in the guest; it has %s", fstype, uuid, seen)
		case <-time.After(pause):
		}
	}
}

// scanDisks looks at every virtio disk. seen describes them all for the error's reader.
func scanDisks(fstype, uuid string) (device, seen string, err error) {
	names, err := filepath.Glob("/sys/block/vd*")
	if err != nil {
		return "", "", err
	}
	var all []string
	for _, name := range names {
		device := filepath.Join("/dev", filepath.Base(name))
		sb, err := superblockOf(device)
		switch {
		case err != nil:
			// It may be on its way in or out; the deadline decides.
			all = append(all, fmt.Sprintf("%s (%v)", device, err))
		case sb.fstype == fstype && sb.uuid == uuid:
			return device, "", nil
		default:
			all = append(all, fmt.Sprintf("%s (%s %s)", device, sb.fstype, sb.uuid))
		}
	}
	if len(all) == 0 {
		return "", "no disks", nil
	}
	return "", strings.Join(all, ", "), nil
}

func superblockOf(device string) (superblock, error) {
	f, err := os.OpenFile(device, os.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return superblock{}, err
	}
	defer f.Close()
	return readSuperblock(f)
}
