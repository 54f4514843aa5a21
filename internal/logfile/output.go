package logfile

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// Output writes a container's streams to one log in the format that Kubernetes gives container logs (CRI): a line is
//
//	TIME STREAM TAG CONTENT\n
//
// with the time in RFC 3339 with nanoseconds, the stream stdout or stderr, and the tag F for a line that ended with a
// newline or P for a part of one. So every byte can be had back from it.
type Output struct {
	mu sync.Mutex
	w  io.Writer
}

const (
	// maxLine is the longest content of one entry, in bytes; containerd's CRI cuts at the same length.
	maxLine = 16 << 10
	// maxWrite bounds one write of whole entries, in bytes: the longest entry, and less than half of the smallest log, so
	// that a log's rotation never cuts one.
	maxWrite = maxLine + 128
)

// NewOutput writes entries to w, each in one Write of at most 16.2 KiB.
func NewOutput(w io.Writer) *Output { return &Output{w: w} }

// Stream returns the writer of one stream ("stdout", "stderr"). It is not buffered: a part of a line that was written
// is in the log.
func (o *Output) Stream(name string) io.Writer { return &outputStream{o: o, name: name} }

type outputStream struct {
	o    *Output
	name string
}

func (s *outputStream) Write(p []byte) (int, error) {
	s.o.mu.Lock()
	defer s.o.mu.Unlock()
	now := time.Now().UTC().Format(time.RFC3339Nano)
	var entries []byte
	for rest := p; len(rest) > 0; {
		var line []byte
		tag := "P"
		if i := bytes.IndexByte(rest, '\n'); i >= 0 && i <= maxLine {
			line, tag = rest[:i], "F"
			rest = rest[i+1:]
		} else {
			line = rest[:min(len(rest), maxLine)]
			rest = rest[len(line):]
		}
		if len(entries)+len(now)+len(s.name)+len(line)+len("   T\n") > maxWrite {
			if _, err := s.o.w.Write(entries); err != nil {
				return 0, err
			}
			entries = entries[:0]
		}
		entries = fmt.Appendf(entries, "%s %s %s %s\n", now, s.name, tag, line)
	}
	if _, err := s.o.w.Write(entries); err != nil {
		return 0, err
	}
	return len(p), nil
}

// ErrFormat says that a line of a log is not an entry.
var ErrFormat = errors.New("malformed log entry")

// Copy writes the content of the log r to the two writers, byte for byte as the container wrote it. Entries that a full
// log has cut are passed over at its beginning.
func Copy(stdout, stderr io.Writer, r io.Reader) error {
	br := bufio.NewReaderSize(r, maxLine+128)
	for first := true; ; first = false {
		line, err := br.ReadSlice('\n')
		if errors.Is(err, io.EOF) {
			return nil // an entry without its end is still being written
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrFormat, err)
		}
		w, content, err := entry(line, stdout, stderr)
		if err != nil {
			if first {
				continue
			}
			return err
		}
		if _, err := w.Write(content); err != nil {
			return err
		}
	}
}

func entry(line []byte, stdout, stderr io.Writer) (io.Writer, []byte, error) {
	parts := bytes.SplitN(line, []byte(" "), 4)
	if len(parts) != 4 {
		return nil, nil, ErrFormat
	}
	w := stdout
	switch string(parts[1]) {
	case "stdout":
	case "stderr":
		w = stderr
	default:
		return nil, nil, ErrFormat
	}
	switch string(parts[2]) {
	case "F":
		return w, parts[3], nil
	case "P":
		return w, parts[3][:len(parts[3])-1], nil
	}
	return nil, nil, ErrFormat
}

// Entry is one entry of a container's log.
type Entry struct {
	Time time.Time
	// Stream is stdout or stderr.
	Stream string
	// Content is a line with its newline, or a part of one without.
	Content []byte
}

// Ends says whether the entry ends a line.
func (e Entry) Ends() bool { return bytes.HasSuffix(e.Content, []byte{'\n'}) }

// ParseEntry reads a line of a log. The content is a part of the line.
func ParseEntry(line []byte) (Entry, error) {
	var stdout, stderr bytes.Buffer
	w, content, err := entry(line, &stdout, &stderr)
	if err != nil {
		return Entry{}, err
	}
	e := Entry{Stream: "stdout", Content: content}
	if w == io.Writer(&stderr) {
		e.Stream = "stderr"
	}
	stamp, _, _ := bytes.Cut(line, []byte(" "))
	if e.Time, err = time.Parse(time.RFC3339Nano, string(stamp)); err != nil {
		return Entry{}, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	return e, nil
}
