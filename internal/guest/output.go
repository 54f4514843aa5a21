package guest

import (
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// backgroundGrace is how long output is taken from processes that one which has ended left behind; Docker's limit.
const backgroundGrace = 2 * time.Second

// output reads what a process writes. It ends when nobody can write any more; when the process has ended and others, which it left in
// the background, still could, it ends after a time, with all that the process itself has written.
type output struct {
	f        *os.File
	terminal bool
	quit     chan struct{}
	watcher  sync.WaitGroup

	mu      sync.Mutex
	stopped bool
	// until is the end of the grace, once the process has ended; left is how much it can have written that is still to be read.
	until time.Time
	left  int
}

func newOutput(f *os.File, ended <-chan struct{}, terminal bool) *output {
	o := &output{f: f, terminal: terminal, quit: make(chan struct{})}
	o.watcher.Go(func() {
		select {
		case <-ended:
			o.ended()
		case <-o.quit:
		}
	})
	return o
}

// ended begins the grace.
func (o *output) ended() {
	const capacity = 64 << 10 // of a pipe, and more than a terminal's
	o.mu.Lock()
	defer o.mu.Unlock()
	o.until, o.left = time.Now().Add(backgroundGrace), capacity
	if n, err := o.size(); err == nil {
		o.left = n
	}
	if !o.stopped {
		_ = o.f.SetReadDeadline(o.until) // fails only when it is closed, and so does the read
	}
}

// size is the pipe's capacity in bytes.
func (o *output) size() (n int, err error) {
	conn, err := o.f.SyscallConn()
	if err != nil {
		return 0, err
	}
	cerr := conn.Control(func(fd uintptr) { n, err = unix.FcntlInt(fd, unix.F_GETPIPE_SZ, 0) })
	return n, errors.Join(cerr, err)
}

// Read is io.Reader's.
func (o *output) Read(p []byte) (int, error) {
	if !o.more() {
		return 0, io.EOF
	}
	n, err := o.f.Read(p)
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.until.IsZero() {
		o.left -= n
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded) && (o.stopped || !o.until.IsZero()), o.terminal && errors.Is(err, unix.EIO):
		err = io.EOF
	}
	return n, err
}

// more says whether to go on, and gives the next read its deadline: what the process has written is there at once, so it is read to its
// end however long the host takes for it.
func (o *output) more() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.stopped:
		return false
	case o.until.IsZero():
		return true
	}
	next, now := o.until, time.Now()
	if now.After(o.until) {
		if o.left <= 0 {
			return false
		}
		next = now.Add(backgroundGrace / 20)
	}
	_ = o.f.SetReadDeadline(next) // fails only when it is closed, and so does the read
	return true
}

// Close ends the reading: a pipe is closed, so that who writes gets to know it; a terminal is left to resume.
func (o *output) Close() error {
	if !o.terminal {
		return o.f.Close()
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.stopped = true
	return o.f.SetReadDeadline(time.Unix(1, 0))
}

// resume reads on after Close.
func (o *output) resume() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.stopped = false
	_ = o.f.SetReadDeadline(o.until) // the zero time is none
}

// release ends the watching for the process's end.
func (o *output) release() {
	close(o.quit)
	o.watcher.Wait()
}
