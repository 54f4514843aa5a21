// Package logfile keeps what a guest writes in files of bounded size.
//
// A File is written by one process and read by any number; when it is full, the older half goes. Write, Close, Lost and
// Tail are safe for use by several goroutines.
package logfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
)

// File is a log of at most its limit, kept as two halves: PATH, and PATH.1 with what came before.
type File struct {
	path string
	half int64

	mu   sync.Mutex
	f    *os.File
	size int64
	lost int64
	err  error // the first of Lossy
}

// Older is the name of the older half of the log at path.
func Older(path string) string { return path + ".1" }

// Create begins a log at path that never takes more than limit bytes on disk.
func Create(path string, limit int64) (*File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("create log: %w", err)
	}
	return &File{path: path, half: max(limit/2, 1), f: f}, nil
}

// Append is Create that goes on with the log that is at path, if there is one. What a writer that was killed has left of its last
// line is cut off.
func Append(path string, limit int64) (*File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	l := &File{path: path, half: max(limit/2, 1), f: f}
	if l.size, err = wholeLines(f); err == nil {
		err = f.Truncate(l.size)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open log: %w", err), f.Close())
	}
	return l, nil
}

// wholeLines is the length of a file up to the end of its last line.
func wholeLines(f *os.File) (int64, error) {
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, err
	}
	block := make([]byte, 32<<10)
	for end > 0 {
		n := min(end, int64(len(block)))
		if _, err := f.ReadAt(block[:n], end-n); err != nil {
			return 0, err
		}
		if i := bytes.LastIndexByte(block[:n], '\n'); i >= 0 {
			return end - n + int64(i) + 1, nil
		}
		end -= n
	}
	return 0, nil
}

// Write appends p whole or, after an error, not at all: a write is never split over the halves, unless it alone is longer
// than half of the limit; then only its end is kept.
func (l *File) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.write(p)
}

func (l *File) write(p []byte) (int, error) {
	n := len(p)
	if int64(len(p)) > l.half {
		p = p[int64(len(p))-l.half:]
	}
	if l.f == nil {
		return 0, os.ErrClosed
	}
	if l.size+int64(len(p)) > l.half {
		if err := l.rotate(); err != nil {
			return 0, err
		}
	}
	if _, err := l.f.WriteAt(p, l.size); err != nil {
		// What a full disk took of it would be taken for an entry.
		return 0, errors.Join(fmt.Errorf("write log: %w", err), l.f.Truncate(l.size))
	}
	l.size += int64(len(p))
	return n, nil
}

func (l *File) rotate() error {
	// A rotation that failed half-way has renamed it already.
	if err := os.Rename(l.path, Older(l.path)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("rotate log: %w", err)
	}
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("rotate log: %w", err)
	}
	l.f.Close()
	l.f, l.size = f, 0
	return nil
}

// Lossy returns a writer to the log that takes everything: a disk that is full must stop neither the guest's console nor
// a container's output. Lost tells what it could not keep.
func (l *File) Lossy() io.Writer { return lossy{l} }

type lossy struct{ l *File }

func (w lossy) Write(p []byte) (int, error) {
	w.l.mu.Lock()
	defer w.l.mu.Unlock()
	if _, err := w.l.write(p); err != nil {
		w.l.lost += int64(len(p))
		if w.l.err == nil {
			w.l.err = err
		}
	}
	return len(p), nil
}

// Lost is how many bytes the log's Lossy writer could not keep, and the first reason.
func (l *File) Lost() (bytes int64, why error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lost, l.err
}

// Close ends the log; the files stay.
func (l *File) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f == nil {
		return nil
	}
	err := l.f.Close()
	l.f = nil
	return err
}

// openAttempts bounds how often Open tries to find the two halves without a rotation between them.
const openAttempts = 100

// Open returns the whole log at path as one stream, the older half first. A log that does not exist is empty.
func Open(path string) (io.ReadCloser, error) {
	for range openAttempts {
		parts, err := openHalves(path)
		if err != nil {
			return nil, fmt.Errorf("read log: %w", err)
		}
		if parts == nil {
			continue
		}
		return &struct {
			io.Reader
			io.Closer
		}{parts.reader(), parts}, nil
	}
	return nil, fmt.Errorf("read log %s: it is rotated faster than it can be opened", path)
}

// openHalves opens both halves, the older first, or returns nil when a rotation has come in between.
func openHalves(path string) (multiFile, error) {
	newer, err := openIfThere(path)
	if err != nil {
		return nil, err
	}
	older, err := openIfThere(Older(path))
	if err != nil {
		return nil, errors.Join(err, newer.Close())
	}
	parts := append(older, newer...)
	now, err := os.Stat(path)
	switch {
	case err == nil && len(newer) == 1:
		var opened os.FileInfo
		if opened, err = newer[0].Stat(); err == nil && os.SameFile(opened, now) {
			return parts, nil
		}
	case errors.Is(err, os.ErrNotExist) && len(newer) == 0:
		// It does not exist, or it is being rotated, which ends with the newer half there.
		return parts, nil
	}
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	return nil, errors.Join(err, parts.Close())
}

func openIfThere(path string) (multiFile, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return multiFile{}, nil
	}
	if err != nil {
		return nil, err
	}
	return multiFile{f}, nil
}

type multiFile []*os.File

func (m multiFile) reader() io.Reader {
	readers := make([]io.Reader, len(m))
	for i, f := range m {
		readers[i] = f
	}
	return io.MultiReader(readers...)
}

func (m multiFile) Close() error {
	var errs []error
	for _, f := range m {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// Tail returns the last lines of the log at path, with what a terminal would act on replaced, for use in an error's text.
func Tail(path string, lines int) string {
	const most = 16 << 10 // enough for an error's text
	b := end(path, most)
	if missing := most - len(b); missing > 0 {
		b = append(end(Older(path), missing), b...)
	}
	all := bytes.Split(bytes.TrimRight(b, "\r\n"), []byte("\n"))
	return printable(bytes.Join(all[max(0, len(all)-lines):], []byte("\n")))
}

// end is the last bytes of a file, at most so many.
func end(path string, most int) []byte {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	if size, err := f.Seek(0, io.SeekEnd); err == nil {
		_, _ = f.Seek(max(0, size-int64(most)), io.SeekStart)
	}
	b, _ := io.ReadAll(io.LimitReader(f, int64(most)))
	return b
}

// printable keeps printable ASCII, tabs and newlines: the bytes are the guest's.
func printable(b []byte) string {
	return string(bytes.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r >= ' ' && r <= '~':
			return r
		case r == '\r':
			return -1
		}
		return '?'
	}, b))
}
