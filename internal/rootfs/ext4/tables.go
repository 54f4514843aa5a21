package ext4

import (
	"crypto/sha256"
	"encoding/binary"
	"hash/crc32"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// crc32c continues a checksum the kernel's way, which inverts neither before nor after.
func crc32c(sum uint32, b []byte) uint32 { return ^crc32.Update(^sum, castagnoli, b) }

// inodeSeed is where checksums of an inode and of its directory blocks begin; i_generation is always 0 here.
func inodeSeed(seed, number uint32) uint32 {
	var b [8]byte
	binary.LittleEndian.PutUint32(b[:], number)
	return crc32c(seed, b[:])
}

// setBits sets the bits from one number to before another.
func setBits(b []byte, from, to uint64) {
	for i := from; i < to; i++ {
		b[i/8] |= 1 << (i % 8)
	}
}

// writeInodes writes the used part of the inode table.
func (l *layout) writeInodes(b []byte) {
	for i, inode := range l.inodes {
		if inode == nil {
			// A reserved inode has a checksum too, of nothing.
			inode = make([]byte, inodeSize)
			sum := crc32c(inodeSeed(l.seed, uint32(i+1)), inode)
			binary.LittleEndian.PutUint16(inode[0x7c:], uint16(sum))
		}
		copy(b[i*inodeSize:], inode)
	}
}

// writeDescriptors writes the groups' descriptors. Where a group is as the kernel would make it, only a flag says so.
func (l *layout) writeDescriptors(b, blockBitmap, inodeBitmap, last []byte) {
	le := binary.LittleEndian
	for g := range l.groups {
		d := b[g*descSize:][:descSize]
		freeBlocks, freeInodes := l.groupBlocks(g)-l.groupOverhead(), l.inodesPerGroup
		flags := uint16(flagZeroed | flagInodeUninit | flagBlockUninit)
		bitmap := []byte(nil)
		switch g {
		case 0:
			freeBlocks, freeInodes = l.groupBlocks(0)-l.next, l.inodesPerGroup-uint64(len(l.inodes))
			flags, bitmap = flagZeroed, blockBitmap
			sum := crc32c(l.seed, inodeBitmap[:l.inodesPerGroup/8])
			le.PutUint16(d[0x1a:], uint16(sum))
			le.PutUint16(d[0x3a:], uint16(sum>>16))
			le.PutUint16(d[0x10:], l.dirs)
		case l.groups - 1:
			flags, bitmap = flagZeroed|flagInodeUninit, last
		}
		if bitmap != nil {
			sum := crc32c(l.seed, bitmap)
			le.PutUint16(d[0x18:], uint16(sum))
			le.PutUint16(d[0x38:], uint16(sum>>16))
		}
		le.PutUint32(d[0x00:], uint32(l.blockBitmap(g)))
		le.PutUint32(d[0x20:], uint32(l.blockBitmap(g)>>32))
		le.PutUint32(d[0x04:], uint32(l.inodeBitmap(g)))
		le.PutUint32(d[0x24:], uint32(l.inodeBitmap(g)>>32))
		le.PutUint32(d[0x08:], uint32(l.inodeBitmap(g)+1))
		le.PutUint32(d[0x28:], uint32((l.inodeBitmap(g)+1)>>32))
		le.PutUint16(d[0x0c:], uint16(freeBlocks))
		le.PutUint16(d[0x0e:], uint16(freeInodes))
		le.PutUint16(d[0x12:], flags)
		le.PutUint16(d[0x1c:], uint16(freeInodes)) // inodes at the end that were never used
		var number [4]byte
		le.PutUint32(number[:], uint32(g))
		le.PutUint16(d[0x1e:], uint16(crc32c(crc32c(l.seed, number[:]), d)))
	}
}

// writeSuper writes the superblock, of which there is no copy.
func (l *layout) writeSuper(b []byte) {
	le := binary.LittleEndian
	overhead := l.dataStart + (l.groups-1)*l.groupOverhead()
	free := l.blocks - overhead - (l.next - l.dataStart)
	now := uint32(l.o.Time.Unix())
	le.PutUint32(b[0x000:], uint32(l.inodesPerGroup*l.groups))
	le.PutUint32(b[0x004:], uint32(l.blocks))
	le.PutUint32(b[0x150:], uint32(l.blocks>>32))
	le.PutUint32(b[0x00c:], uint32(free))
	le.PutUint32(b[0x158:], uint32(free>>32))
	le.PutUint32(b[0x010:], uint32(l.inodesPerGroup*l.groups-uint64(len(l.inodes))))
	le.PutUint32(b[0x018:], blockBits-10) // s_log_block_size
	le.PutUint32(b[0x01c:], blockBits-10) // s_log_cluster_size
	le.PutUint32(b[0x020:], blocksPerGroup)
	le.PutUint32(b[0x024:], blocksPerGroup) // clusters
	le.PutUint32(b[0x028:], uint32(l.inodesPerGroup))
	le.PutUint32(b[0x030:], now)    // s_wtime
	le.PutUint16(b[0x036:], 0xffff) // never checked for its number of mounts
	le.PutUint16(b[0x038:], superMagic)
	le.PutUint16(b[0x03a:], 1)   // clean
	le.PutUint16(b[0x03c:], 1)   // on errors: continue
	le.PutUint32(b[0x040:], now) // s_lastcheck
	le.PutUint32(b[0x04c:], 1)   // s_rev_level
	le.PutUint32(b[0x054:], firstInode)
	le.PutUint16(b[0x058:], inodeSize)
	le.PutUint32(b[0x05c:], compat)
	le.PutUint32(b[0x060:], incompat)
	le.PutUint32(b[0x064:], roCompat)
	copy(b[0x068:], l.o.UUID[:])
	le.PutUint32(b[0x0e0:], journalInode)
	// The seed of directories' hashes need not be secret from a guest that can read the disk, only differ.
	hash := sha256.Sum256(l.o.UUID[:])
	copy(b[0x0ec:0x0fc], hash[:])
	b[0x0fc] = 1 // half MD4
	b[0x0fd] = 1 // s_jnl_backup_type: s_jnl_blocks has the journal's i_block, and its size
	le.PutUint16(b[0x0fe:], descSize)
	le.PutUint32(b[0x100:], 0xc) // user_xattr, acl
	le.PutUint32(b[0x108:], now) // s_mkfs_time
	copy(b[0x10c:], l.journal)
	le.PutUint32(b[0x10c+16*4:], uint32(l.journalBlocks<<blockBits))
	le.PutUint16(b[0x15c:], extraSize)
	le.PutUint16(b[0x15e:], extraSize)
	le.PutUint32(b[0x160:], 1) // hashes of signed bytes
	b[0x175] = 1               // crc32c
	le.PutUint32(b[0x248:], uint32(overhead+l.journalBlocks))
	le.PutUint32(b[0x3fc:], crc32c(^uint32(0), b[:0x3fc]))
}
