// Package events keeps what happens to containers and images, in the order in which it happened, in one log of bounded size that
// every process of a data directory writes to.
//
//	DATA/events/lock, events.log, events.log.1 (what came before)
//
// Write is legal at any time, by any number of processes; so is Read.
package events

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/logfile"
)

// Event is one line of the log. The words are Docker's.
type Event struct {
	Time   time.Time `json:"time"`
	Type   string    `json:"type"` // container or image
	Action string    `json:"action"`
	// ID is the container's, or the image's name.
	ID string `json:"id"`
	// Attributes are name, image, labels, and what belongs to the action, as exitCode.
	Attributes map[string]string `json:"attributes,omitempty"`
}

// Types of what an event is about.
const (
	Container = "container"
	Image     = "image"
)

const (
	// half bounds each of the two files, in bytes: together some 20,000 events.
	half = 4 << 20
	// maxLine bounds an event, in bytes; labels can be of any length.
	maxLine = 64 << 10
	// patience is how long the lock is waited for, which is held for some system calls.
	patience = 2 * time.Second
	pause    = 2 * time.Millisecond
)

// Log is the events of a data directory.
type Log struct {
	dir  string
	half int64 // the constant, but in tests
}

// Open returns the log of a data directory. Nothing is read or made before the first call.
func Open(dataDir string) *Log { return &Log{dir: filepath.Join(dataDir, "events"), half: half} }

func (l *Log) path() string { return filepath.Join(l.dir, "events.log") }

// Write adds an event, now.
func (l *Log) Write(e Event) error {
	if err := l.write(e); err != nil {
		return fmt.Errorf("write the event %s of %s %.12s: %w", e.Action, e.Type, e.ID, err)
	}
	return nil
}

func (l *Log) write(e Event) error {
	if err := os.MkdirAll(l.dir, 0o700); err != nil {
		return err
	}
	lock, err := l.lock()
	if err != nil {
		return err
	}
	defer lock.Close()
	// Under the lock, so that the times have the lines' order.
	e.Time = time.Now().UTC()
	line, err := encode(e)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(l.path(), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer func() { f.Close() }()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if size > 0 && size+int64(len(line)) > l.half {
		if err := os.Rename(l.path(), logfile.Older(l.path())); err != nil {
			return err
		}
		f.Close()
		if f, err = os.OpenFile(l.path(), os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o600); err != nil {
			return err
		}
		size = 0
	}
	if size, err = endOfLine(f, size); err != nil {
		return err
	}
	if _, err := f.WriteAt(line, size); err != nil {
		return errors.Join(err, f.Truncate(size))
	}
	return nil
}

// endOfLine is where the next line goes: what a writer that was killed left of its line is ended.
func endOfLine(f *os.File, size int64) (int64, error) {
	if size == 0 {
		return 0, nil
	}
	var last [1]byte
	if _, err := f.ReadAt(last[:], size-1); err != nil {
		return 0, err
	}
	if last[0] == '\n' {
		return size, nil
	}
	_, err := f.WriteAt([]byte{'\n'}, size)
	return size + 1, err
}

// encode makes an event's line. Attributes that make it too long are left out, the longest first.
func encode(e Event) ([]byte, error) {
	for {
		b, err := json.Marshal(e)
		if err != nil || len(b) < maxLine || len(e.Attributes) == 0 {
			return append(b, '\n'), err
		}
		longest := ""
		kept := map[string]string{}
		for name, value := range e.Attributes {
			kept[name] = value
			if longest == "" || len(name)+len(value) > len(longest)+len(e.Attributes[longest]) {
				longest = name
			}
		}
		delete(kept, longest)
		e.Attributes = kept
	}
}

func (l *Log) lock() (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(l.dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for end := time.Now().Add(patience); ; time.Sleep(pause) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(end) {
			f.Close()
			return nil, fmt.Errorf("lock the log: %w", err)
		}
	}
}

// Reader reads events, the oldest first.
type Reader struct{ f *logfile.Follower }

// Read begins to read the log.
func (l *Log) Read() (*Reader, error) {
	f, err := logfile.Follow(l.path())
	return &Reader{f}, err
}

// Next returns the next event. io.EOF says that there is none at the moment. Lines that are no events are passed over.
func (r *Reader) Next() (Event, error) {
	for {
		line, err := r.f.Line()
		if err != nil {
			return Event{}, err
		}
		var e Event
		if json.Unmarshal(line, &e) == nil && e.Action != "" {
			return e, nil
		}
	}
}

// Close ends the reading.
func (r *Reader) Close() error { return r.f.Close() }
