package logfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
)

// maxFollowedLine is the longest line that a Follower takes, in bytes: longer than any that is written to a log by lines.
const maxFollowedLine = 256 << 10

// Follower reads a log line by line while it is written, over rotations. It is not safe for use by several goroutines at once.
type Follower struct {
	path  string
	parts multiFile // the first is read at the moment
	off   int64     // in it, behind the last line that was handed out
	buf   []byte    // what follows off
	start int
}

// Follow begins to read the log at path, the older half first. A log that does not exist yet is empty.
func Follow(path string) (*Follower, error) {
	f := &Follower{path: path}
	return f, f.reopen()
}

func (f *Follower) reopen() error {
	for range openAttempts {
		parts, err := openHalves(f.path)
		if err != nil {
			return fmt.Errorf("read log: %w", err)
		}
		if parts != nil {
			f.use(parts)
			return nil
		}
	}
	return nil // between two rotations; the next Line tries again
}

func (f *Follower) use(parts multiFile) {
	f.parts, f.off, f.buf, f.start = parts, 0, f.buf[:0], 0
}

// Line returns the next line with its newline; it is valid until the next call. io.EOF says that there is none at the moment. A
// reader that is slower than two rotations misses what has gone meanwhile.
func (f *Follower) Line() ([]byte, error) {
	for {
		if i := bytes.IndexByte(f.buf[f.start:], '\n'); i >= 0 {
			line := f.buf[f.start : f.start+i+1]
			f.start += i + 1
			f.off += int64(len(line))
			return line, nil
		}
		more, err := f.fill()
		if err != nil {
			return nil, err
		}
		if !more {
			// What is there of a line is read again: a writer that was killed may have left it, and the next one cuts it off.
			f.buf, f.start = f.buf[:0], 0
			return nil, io.EOF
		}
	}
}

// fill reads on, also in the next file. It says false where there is nothing more.
func (f *Follower) fill() (bool, error) {
	if len(f.parts) == 0 {
		if err := f.reopen(); err != nil || len(f.parts) == 0 {
			return false, err
		}
	}
	if n, err := f.read(); n > 0 || err != nil {
		return n > 0, err
	}
	if len(f.parts) > 1 {
		err := f.parts[0].Close()
		f.use(f.parts[1:])
		return true, err
	}
	rotated, err := f.rotated()
	if err != nil || !rotated {
		return false, err
	}
	// To a file that is not the newest any more nothing is added: now all of it can be read.
	if n, err := f.read(); n > 0 || err != nil {
		return n > 0, err
	}
	was := f.parts
	next, err := openHalves(f.path)
	if err != nil || len(next) == 0 {
		return false, err
	}
	if same, err := sameFile(was[0], next[0]); err != nil {
		return false, errors.Join(err, next.Close())
	} else if same {
		if len(next) == 1 { // the newest is not there yet
			return false, next.Close()
		}
		was = append(was, next[0])
		next = next[1:]
	}
	f.use(next)
	return true, was.Close()
}

// read reads some more of the first file.
func (f *Follower) read() (int, error) {
	kept := copy(f.buf, f.buf[f.start:])
	f.buf, f.start = f.buf[:kept], 0
	if kept >= maxFollowedLine {
		return 0, fmt.Errorf("%w: a line of more than %d bytes", ErrFormat, maxFollowedLine)
	}
	const block = 32 << 10
	buf := append(f.buf, make([]byte, block)...)
	n, err := f.parts[0].ReadAt(buf[kept:], f.off+int64(kept))
	f.buf = buf[:kept+n]
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

// rotated says whether the file that is read is not the newest any more.
func (f *Follower) rotated() (bool, error) {
	now, err := os.Stat(f.path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil // in the middle of a rotation, or removed
	}
	if err != nil {
		return false, err
	}
	mine, err := f.parts[0].Stat()
	return err == nil && !os.SameFile(mine, now), err
}

func sameFile(a, b *os.File) (bool, error) {
	x, err := a.Stat()
	if err != nil {
		return false, err
	}
	y, err := b.Stat()
	return err == nil && os.SameFile(x, y), err
}

// Rest returns what follows the last line that was handed out: the beginning of one, which may still be written.
func (f *Follower) Rest() ([]byte, error) {
	if len(f.parts) == 0 {
		return nil, nil
	}
	return io.ReadAll(io.NewSectionReader(f.parts[0], f.off, maxFollowedLine))
}

// Close ends the reading.
func (f *Follower) Close() error { return f.parts.Close() }
