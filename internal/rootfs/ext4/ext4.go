// Package ext4 formats a fresh ext4 file system with a few files in it.
//
// mke2fs does that too, in some 5 ms of work and four syncs, each of which waits for whatever else the host writes; that
// is a third of what the start of a container may take. Here three writes of some 100 KiB do, and none is waited for. Besides,
// a fresh sparse file is known to be zero, so the inode tables are marked as such and no guest's kernel writes them in the
// background; and times keep their nanoseconds.
//
// Format is all there is; it may be called by any number of goroutines.
package ext4

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"
)

// The on-disk format, as the Linux kernel documents it in Documentation/filesystems/ext4. Numbers are little endian, the
// journal's big endian.
const (
	// BlockSize is the size of a block in bytes.
	BlockSize = 1 << blockBits
	blockBits = 12

	blocksPerGroup = 8 * BlockSize // what one block of a bitmap holds: 128 MiB
	inodeSize      = 256
	extraSize      = 32 // i_extra_isize: up to i_projid
	descSize       = 64 // with 64bit
	inodesPerBlock = BlockSize / inodeSize

	rootInode    = 2
	journalInode = 8
	firstInode   = 11 // of those that are not reserved; lost+found

	maxExtent = 32768 // blocks of one initialized extent

	superOffset = 1024
	superSize   = 1024
	superMagic  = 0xEF53

	compat   = 0x4 | 0x8 | 0x20 | 0x200        // has_journal, ext_attr, dir_index, sparse_super2
	incompat = 0x2 | 0x40 | 0x80               // filetype, extents, 64bit
	roCompat = 0x2 | 0x8 | 0x20 | 0x40 | 0x400 // large_file, huge_file, dir_nlink, extra_isize, metadata_csum

	flagInodeUninit = 1 // BG_INODE_UNINIT
	flagBlockUninit = 2 // BG_BLOCK_UNINIT
	flagZeroed      = 4 // BG_INODE_ZEROED

	modeType = 0o170000
	modeDir  = 0o040000
	modeReg  = 0o100000
)

// MinSize and MaxSize bound a file system, in bytes.
const (
	MinSize = 16 << 20
	MaxSize = 16 << 40
)

// File is a regular file or a directory.
type File struct {
	Name string
	// Mode is st_mode; UID and GID are the owner.
	Mode     uint32
	UID, GID uint32
	// Mtime is the modification time, from 1901 to 2446.
	Mtime time.Time
	// Data is a regular file's content.
	Data []byte
	// Children are a directory's entries; a few, that fit in one block.
	Children []File
}

// Options describe a file system.
type Options struct {
	// Size is in bytes, a multiple of BlockSize between MinSize and MaxSize. Up to 3 MiB at the end may stay unused.
	Size int64
	UUID [16]byte
	// Time is when it is made.
	Time time.Time
	// Files are the entries of the root directory, beside lost+found.
	Files []File
}

// Format writes a file system to f, which must read as zeros up to Size.
func Format(f io.WriterAt, o Options) error {
	if o.Size < MinSize || o.Size > MaxSize || o.Size%BlockSize != 0 {
		return fmt.Errorf("ext4 of %d bytes: the size must be a multiple of %d between %d and %d", o.Size, BlockSize, int64(MinSize),
			int64(MaxSize))
	}
	l := newLayout(o)
	root := File{Mode: modeDir | 0o755, Mtime: o.Time, Children: append([]File{
		{Name: "lost+found", Mode: modeDir | 0o700, Mtime: o.Time},
	}, o.Files...)}
	if err := l.add(rootInode, rootInode, &root); err != nil {
		return err
	}
	if err := l.addJournal(); err != nil {
		return err
	}
	head := make([]byte, (l.inodeTable+uint64(len(l.inodes)+inodesPerBlock-1)/inodesPerBlock)<<blockBits)
	l.writeInodes(head[l.inodeTable<<blockBits:])
	inodeBitmap := head[l.inodeBitmap(0)<<blockBits:][:BlockSize]
	setBits(inodeBitmap, 0, uint64(len(l.inodes)))
	setBits(inodeBitmap, l.inodesPerGroup, 8*BlockSize)
	blockBitmap := head[l.blockBitmap(0)<<blockBits:][:BlockSize]
	setBits(blockBitmap, 0, l.next)
	setBits(blockBitmap, l.groupBlocks(0), 8*BlockSize)
	var last []byte // bitmap of the last group, which is never left to the kernel, for its end
	if l.groups > 1 {
		last = make([]byte, BlockSize)
		setBits(last, 0, l.groupOverhead())
		setBits(last, l.groupBlocks(l.groups-1), 8*BlockSize)
	}
	l.writeDescriptors(head[BlockSize:], blockBitmap, inodeBitmap, last)
	l.writeSuper(head[superOffset:][:superSize])

	write := func(b []byte, block uint64) error {
		_, err := f.WriteAt(b, int64(block)<<blockBits)
		return err
	}
	return errors.Join(write(head, 0), write(l.data, l.dataStart), write(last, l.blockBitmap(l.groups-1)))
}

// layout is where everything lies, and what was put in so far. Each group has its bitmaps and inode table at its start, the
// first has the superblock and the descriptors before them, and all files and the journal after them.
type layout struct {
	o              Options
	seed           uint32 // of checksums
	blocks         uint64
	groups         uint64
	inodesPerGroup uint64
	tableBlocks    uint64 // of a group's inode table
	inodeTable     uint64 // the first group's, after the descriptors and bitmaps
	journalBlocks  uint64

	dataStart uint64
	next      uint64 // first free block
	data      []byte // from dataStart on; the journal's first block is the last
	inodes    [][]byte
	dirs      uint16
	journal   []byte // its inode's i_block
}

func newLayout(o Options) *layout {
	l := &layout{o: o, seed: crc32c(^uint32(0), o.UUID[:]), blocks: uint64(o.Size) >> blockBits}
	// One inode for 16 KiB, as mke2fs has it.
	l.inodesPerGroup = min(l.blocks, blocksPerGroup) / 4 / inodesPerBlock * inodesPerBlock
	l.tableBlocks = l.inodesPerGroup / inodesPerBlock
	l.groups = (l.blocks + blocksPerGroup - 1) / blocksPerGroup
	// A last group that has no room for anything but its own tables is left out.
	if l.groups > 1 && l.groupBlocks(l.groups-1) < l.groupOverhead()+64 {
		l.groups--
		l.blocks = l.groups * blocksPerGroup
	}
	l.inodeTable = 1 + (l.groups*descSize+BlockSize-1)>>blockBits + 2
	l.dataStart = l.inodeTable + l.tableBlocks
	l.next = l.dataStart
	l.inodes = make([][]byte, firstInode-1) // number 1 is at 0
	switch {
	case l.blocks < 128<<20>>blockBits:
		l.journalBlocks = 1024 // the least that there may be
	case l.blocks < 1<<30>>blockBits:
		l.journalBlocks = 4096
	default:
		l.journalBlocks = 8192
	}
	return l
}

func (l *layout) groupBlocks(group uint64) uint64 {
	return min(blocksPerGroup, l.blocks-group*blocksPerGroup)
}

// groupOverhead is how many blocks a group other than the first has for itself.
func (l *layout) groupOverhead() uint64 { return 2 + l.tableBlocks }

// blockBitmap returns where a group's bitmap of blocks lies; that of inodes follows, and then the inodes.
func (l *layout) blockBitmap(group uint64) uint64 {
	if group == 0 {
		return l.inodeTable - 2
	}
	return group * blocksPerGroup
}

func (l *layout) inodeBitmap(group uint64) uint64 { return l.blockBitmap(group) + 1 }

// newInode returns the number of a fresh inode.
func (l *layout) newInode() (uint32, error) {
	if uint64(len(l.inodes)) == l.inodesPerGroup {
		return 0, errors.New("ext4: too many files")
	}
	l.inodes = append(l.inodes, nil)
	return uint32(len(l.inodes)), nil
}

// add puts a file in, and what is below it.
func (l *layout) add(number, parent uint32, f *File) error {
	data, links := f.Data, uint16(1)
	switch f.Mode & modeType {
	case modeReg:
	case modeDir:
		links = 2
		d := dirBlock{b: make([]byte, 0, BlockSize)}
		d.add(number, ".", modeDir)
		d.add(parent, "..", modeDir)
		for i := range f.Children {
			c := &f.Children[i]
			n, err := l.newInode()
			if err != nil {
				return err
			}
			if !d.add(n, c.Name, c.Mode) {
				return fmt.Errorf("ext4: no room for %q in its directory", c.Name)
			}
			if err := l.add(n, number, c); err != nil {
				return err
			}
			if c.Mode&modeType == modeDir {
				links++
			}
		}
		data = d.finish(inodeSeed(l.seed, number))
		l.dirs++
	default:
		return fmt.Errorf("ext4: %q has mode %#o", f.Name, f.Mode)
	}
	return l.put(number, f, links, data, uint64(len(data)))
}

// put gives a file its blocks, the first of which take data, and its inode.
func (l *layout) put(number uint32, f *File, links uint16, data []byte, size uint64) error {
	count := (size + BlockSize - 1) >> blockBits
	if count > maxExtent || l.next+count > l.groupBlocks(0) {
		return fmt.Errorf("ext4: no room for %d bytes of %q", size, f.Name)
	}
	b := make([]byte, inodeSize)
	le := binary.LittleEndian
	le.PutUint16(b[0x00:], uint16(f.Mode))
	le.PutUint16(b[0x02:], uint16(f.UID))
	le.PutUint32(b[0x04:], uint32(size))
	le.PutUint16(b[0x18:], uint16(f.GID))
	le.PutUint16(b[0x1a:], links)
	le.PutUint32(b[0x1c:], uint32(count*BlockSize/512))
	le.PutUint32(b[0x20:], 0x80000) // EXT4_EXTENTS_FL
	putExtent(b[0x28:0x64], l.next, count)
	le.PutUint32(b[0x6c:], uint32(size>>32))
	le.PutUint16(b[0x78:], uint16(f.UID>>16))
	le.PutUint16(b[0x7a:], uint16(f.GID>>16))
	le.PutUint16(b[0x80:], extraSize)
	putTime(b, 0x08, 0x8c, f.Mtime)  // atime
	putTime(b, 0x0c, 0x84, l.o.Time) // ctime
	putTime(b, 0x10, 0x88, f.Mtime)  // mtime
	putTime(b, 0x90, 0x94, l.o.Time) // crtime
	sum := crc32c(inodeSeed(l.seed, number), b)
	le.PutUint16(b[0x7c:], uint16(sum))
	le.PutUint16(b[0x82:], uint16(sum>>16))
	l.inodes[number-1] = b

	at := (l.next - l.dataStart) << blockBits
	l.data = append(l.data, make([]byte, at-uint64(len(l.data)))...)
	l.data = append(l.data, data...)
	l.next += count
	return nil
}

// putExtent writes i_block: a header and one extent.
func putExtent(b []byte, start, count uint64) {
	le := binary.LittleEndian
	le.PutUint16(b[0:], 0xF30A) // EXT4_EXT_MAGIC
	le.PutUint16(b[4:], 4)      // as many fit
	if count == 0 {
		return
	}
	le.PutUint16(b[2:], 1)
	le.PutUint16(b[16:], uint16(count))
	le.PutUint16(b[18:], uint16(start>>32))
	le.PutUint32(b[20:], uint32(start))
}

// putTime writes a time as seconds, and as nanoseconds with two more bits of seconds.
func putTime(b []byte, at, extra int, t time.Time) {
	seconds := t.Unix()
	le := binary.LittleEndian
	le.PutUint32(b[at:], uint32(seconds))
	epoch := uint32((seconds-int64(int32(seconds)))>>32) & 3
	le.PutUint32(b[extra:], uint32(t.Nanosecond())<<2|epoch)
}

// addJournal puts an empty journal in; only its first block is not zero.
func (l *layout) addJournal() error {
	b := make([]byte, superSize)
	be := binary.BigEndian
	be.PutUint32(b[0x00:], 0xC03B3998) // JBD2_MAGIC_NUMBER
	be.PutUint32(b[0x04:], 4)          // JBD2_SUPERBLOCK_V2
	be.PutUint32(b[0x0c:], BlockSize)
	be.PutUint32(b[0x10:], uint32(l.journalBlocks))
	be.PutUint32(b[0x14:], 1) // first block of the log
	be.PutUint32(b[0x18:], 1) // first transaction
	copy(b[0x30:], l.o.UUID[:])
	be.PutUint32(b[0x40:], 1) // users
	f := File{Name: "journal", Mode: modeReg | 0o600, Mtime: l.o.Time}
	err := l.put(journalInode, &f, 1, b, l.journalBlocks<<blockBits)
	if err == nil {
		l.journal = l.inodes[journalInode-1][0x28:0x64]
	}
	return err
}

// dirBlock is the one block of a directory.
type dirBlock struct {
	b    []byte
	last int // where the last entry begins
}

const dirTail = 12 // struct ext4_dir_entry_tail

func (d *dirBlock) add(number uint32, name string, mode uint32) bool {
	size := (8 + len(name) + 3) / 4 * 4
	if name == "" || len(name) > 255 || len(d.b)+size > BlockSize-dirTail {
		return false
	}
	d.last = len(d.b)
	kind := byte(1) // a regular file
	if mode&modeType == modeDir {
		kind = 2
	}
	d.b = binary.LittleEndian.AppendUint32(d.b, number)
	d.b = binary.LittleEndian.AppendUint16(d.b, uint16(size))
	d.b = append(d.b, byte(len(name)), kind)
	d.b = append(d.b, name...)
	d.b = append(d.b, make([]byte, d.last+size-len(d.b))...)
	return true
}

// finish lets the last entry take what is left but the checksum's place.
func (d *dirBlock) finish(seed uint32) []byte {
	le := binary.LittleEndian
	le.PutUint16(d.b[d.last+4:], uint16(BlockSize-dirTail-d.last))
	d.b = d.b[:BlockSize]
	tail := d.b[BlockSize-dirTail:]
	le.PutUint16(tail[4:], dirTail)
	tail[7] = 0xDE // EXT4_FT_DIR_CSUM
	le.PutUint32(tail[8:], crc32c(seed, d.b[:BlockSize-dirTail]))
	return d.b
}
