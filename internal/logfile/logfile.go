// Package logfile keeps what a guest writes in files of bounded size.
//
// A File is written by one process and read by any number; when it is full, the older half goes. Write, Close and Tail
// are safe for use by several goroutines.
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

// Write appends p whole: a write is never split over the halves, unless it alone is longer than half of the limit; then
// only its end is kept.
func (l *File) Write(p []byte) (int, error) {
	n := len(p)
	if int64(len(p)) > l.half {
		p = p[int64(len(p))-l.half:]
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f == nil {
		return 0, os.ErrClosed
	}
	if l.size+int64(len(p)) > l.half {
		if err := l.rotate(); err != nil {
			return 0, err
		}
	}
	m, err := l.f.Write(p)
	l.size += int64(m)
	if err != nil {
		return 0, fmt.Errorf("write log: %w", err)
	}
	return n, nil
}

func (l *File) rotate() error {
	if err := os.Rename(l.path, Older(l.path)); err != nil {
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

// Open returns the whole log at path as one stream, the older half first. A log that does not exist is empty.
func Open(path string) (io.ReadCloser, error) {
	var parts multiFile
	for _, name := range []string{Older(path), path} {
		f, err := os.Open(name)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("read log: %w", err), parts.Close())
		}
		parts = append(parts, f)
	}
	return &struct {
		io.Reader
		io.Closer
	}{parts.reader(), parts}, nil
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
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	if size, err := f.Seek(0, io.SeekEnd); err == nil {
		_, _ = f.Seek(max(0, size-most), io.SeekStart)
	}
	b, _ := io.ReadAll(io.LimitReader(f, most))
	all := bytes.Split(bytes.TrimRight(b, "\r\n"), []byte("\n"))
	return printable(bytes.Join(all[max(0, len(all)-lines):], []byte("\n")))
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
