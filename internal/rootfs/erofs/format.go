package erofs

import (
	"encoding/binary"
	"hash/crc32"
)

// The on-disk format, as the Linux kernel documents it in fs/erofs/erofs_fs.h and Documentation/filesystems/erofs.rst. All
// numbers are little endian. Only what kernels since 5.15 read is used: extended inodes, flat and chunk-based data, inline
// xattrs.
const (
	// BlockSize is the size of a block in bytes; the only one that kernels before 6.4 mount on x86.
	BlockSize = 1 << blockBits
	blockBits = 12

	superOffset = 1024       // EROFS_SUPER_OFFSET
	superSize   = 128        // struct erofs_super_block
	superMagic  = 0xe0f5e1e2 // EROFS_SUPER_MAGIC_V1

	compatChecksum  = 1 << 0 // EROFS_FEATURE_COMPAT_SB_CHKSUM
	compatMtime     = 1 << 1 // EROFS_FEATURE_COMPAT_MTIME: an extended inode's time is mtime
	incompatChunked = 1 << 2 // EROFS_FEATURE_INCOMPAT_CHUNKED_FILE

	inodeSize  = 64 // struct erofs_inode_extended
	slotSize   = 32 // a nid counts slots of this size from the start of the metadata
	direntSize = 12 // struct erofs_dirent

	layoutPlain  = 0 // EROFS_INODE_FLAT_PLAIN
	layoutInline = 2 // EROFS_INODE_FLAT_INLINE: the last, partial block follows the inode
	layoutChunk  = 4 // EROFS_INODE_CHUNK_BASED: an array of block addresses follows the inode

	nullBlock = 0xffffffff // EROFS_NULL_ADDR: a hole

	xattrHeaderSize = 12 // struct erofs_xattr_ibody_header
	xattrEntrySize  = 4  // struct erofs_xattr_entry

	// maxName is EROFS_NAME_LEN, in bytes.
	maxName = 255
	// maxChunkBits is the largest chunk this package writes, in powers of two of a block (EROFS_CHUNK_FORMAT_BLKBITS_MASK
	// allows 31).
	maxChunkBits = 20
)

// Types of a file as in st_mode, and as in a directory entry (FT_* of include/linux/fs_types.h).
const (
	modeType   = 0o170000
	ModeReg    = 0o100000
	ModeDir    = 0o040000
	ModeLink   = 0o120000
	ModeChar   = 0o020000
	ModeBlock  = 0o060000
	ModeFifo   = 0o010000
	ModeSocket = 0o140000
)

func direntType(mode uint32) byte {
	switch mode & modeType {
	case ModeReg:
		return 1
	case ModeDir:
		return 2
	case ModeChar:
		return 3
	case ModeBlock:
		return 4
	case ModeFifo:
		return 5
	case ModeSocket:
		return 6
	case ModeLink:
		return 7
	}
	return 0
}

// xattrPrefixes are the prefixes that the format replaces by a number (EROFS_XATTR_INDEX_*). A name without one of them
// can't be stored.
var xattrPrefixes = []struct {
	index byte
	name  string
	// whole says that nothing may follow the prefix.
	whole bool
}{
	{1, "user.", false},
	{2, "system.posix_acl_access", true},
	{3, "system.posix_acl_default", true},
	{4, "trusted.", false},
	{6, "security.", false},
}

type superBlock struct {
	rootNid    uint16
	inodes     uint64
	blocks     uint32
	metaBlock  uint32
	uuid       [16]byte
	incompat   uint32
	compatible uint32
}

// encode returns the first block of the disk.
func (s *superBlock) encode() []byte {
	block := make([]byte, BlockSize)
	b := block[superOffset:]
	le := binary.LittleEndian
	le.PutUint32(b[0:], superMagic)
	le.PutUint32(b[8:], s.compatible)
	b[12] = blockBits
	le.PutUint16(b[14:], s.rootNid)
	le.PutUint64(b[16:], s.inodes)
	le.PutUint32(b[36:], s.blocks)
	le.PutUint32(b[40:], s.metaBlock)
	copy(b[48:64], s.uuid[:])
	le.PutUint32(b[80:], s.incompat)
	// The kernel's crc32c starts at ~0 and is not inverted at the end; it covers the rest of the first block.
	le.PutUint32(b[4:], ^crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	return block
}

// encodeDev is the kernel's new_encode_dev: 12 bits of major, 20 of minor.
func encodeDev(major, minor uint32) uint32 {
	return minor&0xff | major<<8 | (minor&^0xff)<<12
}
