package erofs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Info is what ReadInfo finds.
type Info struct {
	// UUID is the file system's, lower case and with dashes.
	UUID string
	// Size is what the file system takes, in bytes.
	Size int64
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
	return Info{
		UUID: fmt.Sprintf("%x-%x-%x-%x-%x", b[48:52], b[52:54], b[54:56], b[56:58], b[58:64]),
		Size: int64(le.Uint32(b[36:])) << blockBits,
	}, nil
}
