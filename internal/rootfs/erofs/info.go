package erofs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Attributes are what a directory is like apart from its content.
type Attributes struct {
	// Mode is st_mode, UID and GID the owner.
	Mode     uint32
	UID, GID uint32
	// Mtime is in seconds since the epoch, MtimeNsec the nanoseconds beside it.
	Mtime     int64
	MtimeNsec uint32
}

// Info is what ReadInfo finds.
type Info struct {
	// UUID is the file system's, lower case and with dashes.
	UUID string
	// Size is what the file system takes, in bytes.
	Size int64
	// Root is of the root directory.
	Root Attributes
}

// ReadInfo reads the head of a disk that this package wrote.
func ReadInfo(r io.ReaderAt) (Info, error) {
	var b [superSize]byte
	if _, err := r.ReadAt(b[:], superOffset); err != nil {
		return Info{}, fmt.Errorf("read the superblock: %w", err)
	}
	le := binary.LittleEndian
	if le.Uint32(b[0:]) != superMagic || b[12] != blockBits {
		return Info{}, errors.New("it has no EROFS superblock of ours")
	}
	info := Info{
		UUID: fmt.Sprintf("%x-%x-%x-%x-%x", b[48:52], b[52:54], b[54:56], b[56:58], b[58:64]),
		Size: int64(le.Uint32(b[36:])) << blockBits,
	}
	var h [inodeSize]byte
	at := int64(le.Uint32(b[40:]))<<blockBits + int64(le.Uint16(b[14:]))*slotSize
	if _, err := r.ReadAt(h[:], at); err != nil {
		return Info{}, fmt.Errorf("read the root directory: %w", err)
	}
	info.Root = Attributes{
		Mode: uint32(le.Uint16(h[4:])), UID: le.Uint32(h[24:]), GID: le.Uint32(h[28:]),
		Mtime: int64(le.Uint64(h[32:])), MtimeNsec: le.Uint32(h[40:]),
	}
	if info.Root.Mode&modeType != ModeDir {
		return Info{}, errors.New("its root is not a directory")
	}
	return info, nil
}
