package guest

import (
	"bytes"
	"encoding/binary"
	"testing"
)

func disk(put func(super []byte)) []byte {
	b := make([]byte, 8192)
	put(b[superOffset:])
	return b
}

var testUUID = []byte{0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde, 0xf0, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08}

func TestSuperblocksTellDisksApart(t *testing.T) {
	const uuid = "12345678-9abc-def0-0102-030405060708"
	erofs := disk(func(b []byte) { binary.LittleEndian.PutUint32(b, 0xE0F5E1E2); copy(b[48:], testUUID) })
	ext4 := disk(func(b []byte) { binary.LittleEndian.PutUint16(b[0x38:], 0xEF53); copy(b[0x68:], testUUID) })
	for name, tt := range map[string]struct {
		disk []byte
		want superblock
	}{
		"erofs":            {erofs, superblock{"erofs", uuid}},
		"ext4":             {ext4, superblock{"ext4", uuid}},
		"empty":            {nil, superblock{}},
		"too short":        {ext4[:superOffset+superSize-1], superblock{}},
		"zeros":            {make([]byte, 8192), superblock{}},
		"something else's": {bytes.Repeat([]byte{0xff}, 8192), superblock{}},
	} {
		got, err := readSuperblock(bytes.NewReader(tt.disk))
		if err != nil || got != tt.want {
			t.Errorf("%s: %+v %v, want %+v", name, got, err, tt.want)
		}
	}
}
