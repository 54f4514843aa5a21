package archive

import (
	"archive/tar"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// A file with holes is an entry whose PAX record sizeRecord has the file's size. Its content is a map and then the data of the
// map's segments, one after the other:
//
//	bytes 0..3     number of segments, big endian, at most maxSegments
//	bytes 4..      a segment each: offset in the file, length; 8 bytes each, big endian, ascending, not overlapping
//
// tar's own forms of it cannot be written by archive/tar.
const sizeRecord = "RUNCVM.size"

// maxSegments bounds the map; the last segment of a file with more holes than that holds them as zeroes.
const maxSegments = 1 << 16

type segment struct{ offset, length int64 }

// segments finds the data of a file between its holes, up to size.
func segments(f *os.File, size int64) ([]segment, error) {
	var all []segment
	for at := int64(0); at < size; {
		start, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break // only a hole is left
		}
		if err != nil {
			return nil, err
		}
		end := size
		if len(all) < maxSegments-1 {
			if end, err = unix.Seek(int(f.Fd()), start, unix.SEEK_HOLE); err != nil {
				return nil, err
			}
		}
		if start, end = min(start, size), min(end, size); end <= start {
			break // the file has changed
		}
		all = append(all, segment{start, end - start})
		at = end
	}
	return all, nil
}

// mapHeader makes h that of a file with holes, and returns the map.
func mapHeader(h *tar.Header, all []segment) []byte {
	if h.PAXRecords == nil {
		h.PAXRecords = map[string]string{}
	}
	h.PAXRecords[sizeRecord] = strconv.FormatInt(h.Size, 10)
	b := binary.BigEndian.AppendUint32(nil, uint32(len(all)))
	var data int64
	for _, s := range all {
		b = binary.BigEndian.AppendUint64(b, uint64(s.offset))
		b = binary.BigEndian.AppendUint64(b, uint64(s.length))
		data += s.length
	}
	h.Size = int64(len(b)) + data
	return b
}

// errMap says that a map of holes is none.
var errMap = errors.New("the archive has a file whose map of holes is damaged")

// Size is the size of an entry's file, holes included.
func Size(h *tar.Header) (int64, error) {
	record, ok := h.PAXRecords[sizeRecord]
	if !ok {
		return h.Size, nil
	}
	size, err := strconv.ParseInt(record, 10, 64)
	if err != nil || size < 0 {
		return 0, fmt.Errorf("%w: size %q", errMap, record)
	}
	return size, nil
}

// readMap reads the map of an entry with holes; nil where it has none. It leaves r at the data.
func readMap(h *tar.Header, r io.Reader) ([]segment, error) {
	size, err := Size(h)
	if _, sparse := h.PAXRecords[sizeRecord]; err != nil || !sparse {
		return nil, err
	}
	var count [4]byte
	if _, err := io.ReadFull(r, count[:]); err != nil {
		return nil, fmt.Errorf("%w: %w", errMap, err)
	}
	n := binary.BigEndian.Uint32(count[:])
	if n > maxSegments {
		return nil, fmt.Errorf("%w: %d segments", errMap, n)
	}
	all := make([]segment, n)
	var end int64
	for i := range all {
		var b [16]byte
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return nil, fmt.Errorf("%w: %w", errMap, err)
		}
		s := segment{int64(binary.BigEndian.Uint64(b[:])), int64(binary.BigEndian.Uint64(b[8:]))}
		if s.offset < end || s.length <= 0 || s.offset > size || s.length > size-s.offset {
			return nil, fmt.Errorf("%w: segment %d", errMap, i)
		}
		all[i], end = s, s.offset+s.length
	}
	return all, nil
}

// Expand writes an entry's content to w, with its holes as zeroes.
func Expand(w io.Writer, h *tar.Header, r io.Reader) error {
	all, err := readMap(h, r)
	if err != nil {
		return err
	}
	if _, sparse := h.PAXRecords[sizeRecord]; !sparse {
		_, err := io.CopyN(w, r, h.Size)
		return err
	}
	size, err := Size(h)
	if err != nil {
		return err
	}
	var at int64
	for _, s := range append(all, segment{size, 0}) {
		if _, err := io.CopyN(w, zeroes{}, s.offset-at); err != nil {
			return err
		}
		if _, err := io.CopyN(w, r, s.length); err != nil {
			return err
		}
		at = s.offset + s.length
	}
	return nil
}

// zeroes reads as zeroes without end.
type zeroes struct{}

func (zeroes) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
