package erofs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

const (
	// arenaBlocks is how many blocks a DataWriter takes at once, so that writers which work at the same time each write
	// long runs: 4 MiB.
	arenaBlocks = 4 << 20 >> blockBits
	// bufferSize is what a DataWriter collects before it writes: long enough that the cost of the call does not count.
	bufferSize = 1 << 20
	// pieceSize is what a DataWriter reads at once.
	pieceSize = 128 << 10
	// chunksPerFile bounds a sparse file's map of chunks to 16 KiB of metadata; a larger file gets larger chunks.
	chunksPerFile = 4096
	// maxBlocks is the end of the 32-bit block addresses; the last is EROFS_NULL_ADDR.
	maxBlocks = 1<<32 - 2
)

// Data says where the content of a regular file lies in the disk. The zero value is an empty file.
type Data struct {
	size int64
	// start is the first block, when the content is in one piece.
	start uint32
	// chunks has the first block of each chunk of BlockSize<<chunkBits bytes, or nullBlock; nil when in one piece.
	chunks    []uint32
	chunkBits uint8
}

// Size returns the length in bytes.
func (d Data) Size() int64 { return d.size }

// Builder makes one disk in a file. Legal order: New, any number of DataWriters at the same time, each flushed; then Finish
// once.
type Builder struct {
	f    *os.File
	next atomic.Int64 // first block that nobody has taken
}

// New starts a disk in f, which must be empty. The caller keeps f.
func New(f *os.File) *Builder {
	b := &Builder{f: f}
	b.next.Store(1) // block 0 is the superblock's
	return b
}

func (b *Builder) take(blocks int64) (int64, error) {
	end := b.next.Add(blocks)
	if end > maxBlocks {
		return 0, fmt.Errorf("the image disk would be larger than the 16 TiB that EROFS addresses")
	}
	return end - blocks, nil
}

// Discard gives back the space of content that no inode of the tree refers to. It must not be called for content that is
// in use, or before its writer was flushed.
func (b *Builder) Discard(d Data) error {
	if d.size == 0 {
		return nil
	}
	punch := func(block uint32, size int64) error {
		err := unix.Fallocate(int(b.f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(block)<<blockBits,
			align(size, BlockSize))
		if errors.Is(err, unix.EOPNOTSUPP) {
			return nil // the space stays taken, the disk is right all the same
		}
		return err
	}
	if d.chunks == nil {
		return punch(d.start, d.size)
	}
	chunk := int64(BlockSize) << d.chunkBits
	for i, block := range d.chunks {
		if block == nullBlock {
			continue
		}
		if err := punch(block, min(chunk, d.size-int64(i)*chunk)); err != nil {
			return err
		}
	}
	return nil
}

// DataWriter writes the contents of files, one after the other. It is for one goroutine; several may write to one Builder.
type DataWriter struct {
	b         *Builder
	cur, end  int64  // blocks of the arena that are free
	in        []byte // what was read
	out       []byte // what is to be written
	outOffset int64  // where out goes in the disk, in bytes
}

// DataWriter returns a new writer of file contents.
func (b *Builder) DataWriter() *DataWriter {
	return &DataWriter{b: b, in: make([]byte, pieceSize), out: make([]byte, 0, bufferSize)}
}

// reserve makes sure that the next n blocks come in one piece.
func (w *DataWriter) reserve(n int64) error {
	if w.cur+n <= w.end {
		return nil
	}
	count := max(n, arenaBlocks)
	start, err := w.b.take(count)
	if err != nil {
		return err
	}
	if start != w.end {
		w.cur = start
	}
	w.end = start + count
	return nil
}

// put writes whole blocks at the disk's byte offset.
func (w *DataWriter) put(p []byte, offset int64) error {
	if w.outOffset+int64(len(w.out)) != offset || len(w.out)+len(p) > cap(w.out) {
		if err := w.Flush(); err != nil {
			return err
		}
		w.outOffset = offset
	}
	w.out = append(w.out, p...)
	return nil
}

// Flush writes what is still buffered.
func (w *DataWriter) Flush() error {
	if len(w.out) == 0 {
		return nil
	}
	_, err := w.b.f.WriteAt(w.out, w.outOffset)
	w.out = w.out[:0]
	if err != nil {
		return fmt.Errorf("write image disk: %w", err)
	}
	return nil
}

// Write stores the next size bytes of r as the content of a file. Blocks of zeros take no space. When r ends early, the
// error is io.ErrUnexpectedEOF.
func (w *DataWriter) Write(r io.Reader, size int64) (Data, error) {
	return w.write(size, func(p []byte, at int64) (int64, error) {
		_, err := io.ReadFull(r, p)
		return at, err
	})
}

// WriteSparse is Write for a file that may have large holes, which are not read: nextData says where the next data at or
// after an offset begins, which is size when there is none.
func (w *DataWriter) WriteSparse(r io.ReaderAt, size int64, nextData func(offset int64) (int64, error)) (Data, error) {
	return w.write(size, func(p []byte, at int64) (int64, error) {
		next, err := nextData(at)
		if err != nil || next >= size {
			return size, err
		}
		at = max(at, next/BlockSize*BlockSize)
		n, err := r.ReadAt(p[:min(int64(len(p)), size-at)], at)
		if n == len(p) || at+int64(n) == size {
			err = nil
		}
		return at, err
	})
}

// write stores a file. read fills p with what is at an offset or, when a hole begins there, at a later one, which it
// returns: a multiple of BlockSize, or size. It fills p up to the file's end.
func (w *DataWriter) write(size int64, read func(p []byte, at int64) (int64, error)) (Data, error) {
	d := Data{size: size}
	if size == 0 {
		return d, nil
	}
	blocks := align(size, BlockSize) >> blockBits
	for blocks>>d.chunkBits > chunksPerFile {
		d.chunkBits++
	}
	if size < 0 || d.chunkBits > maxChunkBits {
		return Data{}, fmt.Errorf("file of %d bytes is larger than can be stored", size)
	}
	// What fits is kept in one piece from the start. A larger file becomes one too, unless others write in between.
	if blocks <= arenaBlocks {
		if err := w.reserve(blocks); err != nil {
			return Data{}, err
		}
	}
	m := chunkMap{bits: d.chunkBits, count: int((blocks-1)>>d.chunkBits) + 1, blocks: blocks, last: nullBlock}
	for done := int64(0); done < size; {
		at, err := read(w.in[:min(size-done, pieceSize)], done)
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return Data{}, err
		}
		n := min(size-done, pieceSize, size-at)
		full := align(n, BlockSize)
		clear(w.in[n:full])
		if err := w.store(&m, at>>blockBits, w.in[:full]); err != nil {
			return Data{}, err
		}
		done = at + n
	}
	m.close()
	d.start, d.chunks = m.start, m.chunks
	return d, nil
}

// store writes the blocks of p, the file's from number first on, except those that are zero.
func (w *DataWriter) store(m *chunkMap, first int64, p []byte) error {
	for len(p) > 0 {
		if isZero(p[:BlockSize]) {
			p, first = p[BlockSize:], first+1
			continue
		}
		// A run ends at a block of zeros, and at the end of its chunk.
		run := BlockSize
		room := int(min(int64(len(p)), (m.chunkEnd(first)-first)<<blockBits))
		for run < room && !isZero(p[run:run+BlockSize]) {
			run += BlockSize
		}
		at, err := w.place(m, first)
		if err != nil {
			return err
		}
		if err := w.put(p[:run], at<<blockBits); err != nil {
			return err
		}
		p, first = p[run:], first+int64(run>>blockBits)
	}
	return nil
}

// place returns where the file's block goes; it takes space for the whole chunk when this is the chunk's first.
func (w *DataWriter) place(m *chunkMap, block int64) (int64, error) {
	chunk := int(block >> m.bits)
	begin := int64(chunk) << m.bits
	if m.done <= chunk {
		size := m.chunkEnd(block) - begin
		if err := w.reserve(size); err != nil {
			return 0, err
		}
		m.add(chunk, uint32(w.cur))
		w.cur += size
	}
	return int64(m.last) + block - begin, nil
}

// chunkMap collects where chunks lie, without a list as long as they follow each other.
type chunkMap struct {
	bits   uint8
	count  int   // chunks of the file
	blocks int64 // blocks of the file
	done   int   // chunks that are settled
	last   uint32
	start  uint32
	chunks []uint32
}

// chunkEnd returns the file's block after the chunk that block is in.
func (m *chunkMap) chunkEnd(block int64) int64 {
	return min((block>>m.bits+1)<<m.bits, m.blocks)
}

// add settles chunk number i, and those before it that are not settled as holes.
func (m *chunkMap) add(i int, block uint32) {
	dense := i == m.done && (i == 0 || block == m.start+uint32(i)<<m.bits)
	if i == 0 {
		m.start = block
	}
	if m.chunks == nil && !dense {
		m.list()
	}
	if m.chunks != nil {
		for len(m.chunks) < i {
			m.chunks = append(m.chunks, nullBlock)
		}
		m.chunks = append(m.chunks, block)
	}
	m.done, m.last = i+1, block
}

// list writes out the chunks so far, which follow each other.
func (m *chunkMap) list() {
	m.chunks = make([]uint32, m.done, m.count)
	for j := range m.chunks {
		m.chunks[j] = m.start + uint32(j)<<m.bits
	}
}

// close settles the rest as holes.
func (m *chunkMap) close() {
	if m.done == m.count && m.chunks == nil {
		return
	}
	if m.chunks == nil {
		m.list()
	}
	for len(m.chunks) < m.count {
		m.chunks = append(m.chunks, nullBlock)
	}
}

var zeros [BlockSize]byte

func isZero(block []byte) bool { return block[0] == 0 && bytes.Equal(block, zeros[:]) }
