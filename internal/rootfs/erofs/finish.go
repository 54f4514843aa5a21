package erofs

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"slices"
)

// dirBlock is one block of a directory's entries.
type dirBlock struct {
	names []string
	size  int // bytes in use
}

// Finish writes the tree and the superblock, and returns the size of the disk in bytes. The order of the metadata depends
// on the names only, so the same tree gives the same metadata.
func (b *Builder) Finish(root *Inode, uuid [16]byte) (int64, error) {
	if !root.IsDir() {
		return 0, fmt.Errorf("the root of the image is not a directory")
	}
	t := table{root: root}
	if err := t.collect(root, root); err != nil {
		return 0, err
	}
	dirStart := b.next.Load()
	dirEnd, err := t.place(dirStart)
	if err != nil {
		return 0, err
	}
	metaBlocks := align(t.end, BlockSize) >> blockBits
	if dirEnd+metaBlocks > maxBlocks {
		return 0, fmt.Errorf("the image disk would be larger than the 16 TiB that EROFS addresses")
	}
	size := (dirEnd + metaBlocks) << blockBits

	w := bufio.NewWriterSize(io.NewOffsetWriter(b.f, dirStart<<blockBits), bufferSize)
	for _, n := range t.inodes {
		if _, err := w.Write(n.blockData()); err != nil {
			return 0, fmt.Errorf("write image disk: %w", err)
		}
	}
	if err := t.write(w); err != nil {
		return 0, fmt.Errorf("write image disk: %w", err)
	}
	super := superBlock{
		rootNid: uint16(root.nid), inodes: uint64(len(t.inodes)), blocks: uint32(dirEnd + metaBlocks), metaBlock: uint32(dirEnd),
		uuid: uuid, compatible: compatChecksum | compatMtime, incompat: incompatChunked,
	}
	if _, err := b.f.WriteAt(super.encode(), 0); err != nil {
		return 0, fmt.Errorf("write image disk: %w", err)
	}
	if err := b.f.Truncate(size); err != nil {
		return 0, fmt.Errorf("write image disk: %w", err)
	}
	return size, nil
}

// table is the inodes in the order in which they are written.
type table struct {
	root   *Inode
	inodes []*Inode
	end    int64 // bytes of metadata
}

// collect numbers the inodes, counts links, and splits directories into blocks.
func (t *table) collect(n, parent *Inode) error {
	n.nlink++
	if n.number != 0 {
		if n.IsDir() {
			return fmt.Errorf("a directory has two names")
		}
		return nil // another hard link
	}
	t.inodes = append(t.inodes, n)
	n.number = uint32(len(t.inodes))
	xsize, err := n.xattrSize()
	if err != nil {
		return err
	}
	n.xsize = xsize
	if !n.IsDir() {
		return nil
	}
	n.parent = parent
	n.nlink = 2 // its name and "."
	if n != parent {
		parent.nlink++ // ".."
	}
	names := append(slices.Collect(maps.Keys(n.Children)), ".", "..")
	slices.Sort(names)
	n.dir = splitDir(names)
	for _, name := range names {
		child := n.Children[name]
		if child == nil {
			continue
		}
		if err := child.Check(name); err != nil {
			return err
		}
		if err := t.collect(child, n); err != nil {
			return err
		}
	}
	return nil
}

// splitDir fills blocks with sorted names: as many as fit with their entries.
func splitDir(names []string) []dirBlock {
	var blocks []dirBlock
	for start := 0; start < len(names); {
		size, end := 0, start
		for end < len(names) && size+direntSize+len(names[end]) <= BlockSize {
			size += direntSize + len(names[end])
			end++
		}
		blocks = append(blocks, dirBlock{names: names[start:end], size: size})
		start = end
	}
	return blocks
}

// size is i_size.
func (n *Inode) size() int64 {
	switch {
	case n.IsDir():
		return int64(len(n.dir)-1)<<blockBits + int64(n.dir[len(n.dir)-1].size)
	case n.IsSymlink():
		return int64(len(n.Target))
	case n.IsRegular():
		return n.Data.size
	}
	return 0
}

// inlineSize is what follows the inode and its attributes: the tail of the content, or the addresses of the chunks.
func (n *Inode) inlineSize() int64 {
	switch {
	case n.layout == layoutChunk:
		return int64(len(n.Data.chunks)) * 4
	case n.layout == layoutInline && n.IsDir():
		return int64(n.dir[len(n.dir)-1].size)
	case n.layout == layoutInline:
		return int64(len(n.Target))
	}
	return 0
}

// fullBlocks is how many blocks of a directory or a symbolic link lie outside of the inode.
func (n *Inode) fullBlocks() int {
	switch {
	case n.IsDir() && n.layout == layoutInline:
		return len(n.dir) - 1
	case n.IsDir():
		return len(n.dir)
	case n.IsSymlink() && n.layout == layoutPlain:
		return 1
	}
	return 0
}

// blockData returns the content of these blocks.
func (n *Inode) blockData() []byte {
	blocks := n.fullBlocks()
	if n.IsDir() || blocks == 0 {
		return n.dirData(0, blocks)
	}
	return append([]byte(n.Target), zeros[len(n.Target):]...)
}

// place gives each inode its position in the metadata, and each directory its blocks from the given one on; it returns the
// block after them, where the metadata begins.
func (t *table) place(block int64) (int64, error) {
	// Number 0 stays free: readdir(3) takes an inode 0 for an entry that is not there.
	at := int64(inodeSize)
	for _, n := range t.inodes {
		switch {
		case n.IsRegular() && n.Data.chunks != nil:
			n.layout = layoutChunk
		case n.IsSymlink(), n.IsDir():
			n.layout = layoutInline
		}
		// A tail must lie within one block (erofs_map_blocks, erofs_fill_symlink): here together with its whole inode.
		// Attributes and addresses of chunks need not.
		whole := inodeSize + int64(n.xsize) + n.inlineSize()
		if n.layout == layoutInline && whole > BlockSize {
			n.layout = layoutPlain
		}
		together := int64(inodeSize)
		if n.layout == layoutInline {
			together = whole
		}
		if at%BlockSize+together > BlockSize {
			at = align(at, BlockSize)
		}
		n.nid = uint64(at) / slotSize
		at = align(at+inodeSize+int64(n.xsize)+n.inlineSize(), slotSize)
		n.block = uint32(block)
		block += int64(n.fullBlocks())
	}
	t.end = at
	if block > maxBlocks {
		return 0, fmt.Errorf("the image disk would be larger than the 16 TiB that EROFS addresses")
	}
	return block, nil
}

// write writes the metadata.
func (t *table) write(w *bufio.Writer) error {
	at := int64(0)
	pad := func(to int64) error {
		for at < to {
			n := min(to-at, BlockSize)
			if _, err := w.Write(zeros[:n]); err != nil {
				return err
			}
			at += n
		}
		return nil
	}
	var b []byte
	for _, n := range t.inodes {
		if err := pad(int64(n.nid) * slotSize); err != nil {
			return err
		}
		b = n.appendXattrs(n.appendHead(b[:0]))
		switch {
		case n.layout == layoutChunk:
			for _, c := range n.Data.chunks {
				b = binary.LittleEndian.AppendUint32(b, c)
			}
		case n.layout == layoutInline && n.IsDir():
			b = append(b, n.dirData(len(n.dir)-1, len(n.dir))...)
		case n.layout == layoutInline:
			b = append(b, n.Target...)
		}
		if _, err := w.Write(b); err != nil {
			return err
		}
		at += int64(len(b))
	}
	if err := pad(align(t.end, BlockSize)); err != nil {
		return err
	}
	return w.Flush()
}

// appendHead appends struct erofs_inode_extended.
func (n *Inode) appendHead(b []byte) []byte {
	var h [inodeSize]byte
	le := binary.LittleEndian
	le.PutUint16(h[0:], 1|n.layout<<1) // EROFS_INODE_LAYOUT_EXTENDED
	if n.xsize > 0 {
		le.PutUint16(h[2:], uint16((n.xsize-xattrHeaderSize)/4+1))
	}
	le.PutUint16(h[4:], uint16(n.Mode))
	le.PutUint64(h[8:], uint64(n.size()))
	le.PutUint32(h[16:], n.union())
	le.PutUint32(h[20:], n.number)
	le.PutUint32(h[24:], n.UID)
	le.PutUint32(h[28:], n.GID)
	le.PutUint64(h[32:], uint64(n.Mtime))
	le.PutUint32(h[40:], n.MtimeNsec)
	le.PutUint32(h[44:], n.nlink)
	return append(b, h[:]...)
}

// union is i_u, which means something else for each type.
func (n *Inode) union() uint32 {
	switch {
	case n.Mode&modeType == ModeChar, n.Mode&modeType == ModeBlock:
		return encodeDev(n.Major, n.Minor)
	case n.layout == layoutChunk:
		return uint32(n.Data.chunkBits)
	case n.IsRegular():
		return n.Data.start
	case n.fullBlocks() > 0:
		return n.block
	}
	return 0
}

// dirData returns the blocks from one number to before another: entries first, then their names. Each is a whole block,
// except the directory's last.
func (n *Inode) dirData(from, to int) []byte {
	var data []byte
	for i := from; i < to; i++ {
		start := len(data)
		offset := direntSize * len(n.dir[i].names)
		for _, name := range n.dir[i].names {
			child := n.Children[name]
			switch name {
			case ".":
				child = n
			case "..":
				child = n.parent
			}
			data = binary.LittleEndian.AppendUint64(data, child.nid)
			data = binary.LittleEndian.AppendUint16(data, uint16(offset))
			data = append(data, direntType(child.Mode), 0)
			offset += len(name)
		}
		for _, name := range n.dir[i].names {
			data = append(data, name...)
		}
		if n.layout == layoutPlain || i < len(n.dir)-1 {
			data = append(data, zeros[:BlockSize-(len(data)-start)]...)
		}
	}
	return data
}
