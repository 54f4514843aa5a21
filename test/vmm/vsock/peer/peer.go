// Package peer is one end of the vsock connections of the recorded table: it carries out a script's words on sockets and says
// what it observed. The host's end uses it in the test's own process, on Unix sockets, the guest's end in program vsockpeer, on
// AF_VSOCK sockets.
//
// Make a Peer with Host or Guest, then call Do from any goroutine. A socket is known by the name that the word which made it
// gave; one word at a time may read from it, and one write to it. Reset closes them all.
//
// Every socket is non-blocking and is waited for with poll: a signal would end a blocking connect of AF_VSOCK.
package peer

import (
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Patience bounds every wait. An observation that has Stuck in it is none: nothing came for that long.
const (
	Patience = 30 * time.Second
	Stuck    = "stuck"
)

// pause is how long a writer waits for room until it takes its peer for one that does not read.
const pause = time.Second

// Observation is what became of a word.
type Observation struct {
	// Text is comparable: it holds no number that depends on the system's buffers, and no port.
	Text string
	// Count is the bytes that were moved, where Text does not say.
	Count uint64
}

// Peer is one end.
type Peer struct {
	dial   func(port uint32) (fd int, text string, err error)
	listen func(port uint32, backlog int) (fd int, clean func() error, err error)
	path   string // the VMM's Unix socket; empty in the guest

	mu      sync.Mutex
	sockets map[string]*socket
}

// socket carries a stream of known bytes in each direction.
type socket struct {
	fd      int
	in, out uint64 // bytes that were read and written
	clean   func() error
}

// octet is the byte at a place in a stream. The period is a prime, so that a lost or doubled block of any usual size shows.
func octet(at uint64) byte { return byte(at % 251) }

func newPeer() *Peer { return &Peer{sockets: map[string]*socket{}} }

// verb is a word of a script: it gets the socket that its first argument names, where there is one, and the other arguments.
type verb struct {
	args   int // after the name
	exists bool
	do     func(p *Peer, name string, s *socket, args []string) (Observation, error)
}

// Do carries out a word. What goes wrong on a socket is an observation; an error says that the script itself is wrong, or that
// this end cannot go on.
func (p *Peer) Do(word string, args []string) (Observation, error) {
	v, ok := verbs[word]
	if !ok || len(args) != v.args+1 {
		return Observation{}, fmt.Errorf("%q with %d arguments is no word of a script", word, len(args))
	}
	p.mu.Lock()
	s := p.sockets[args[0]]
	p.mu.Unlock()
	if v.exists != (s != nil) {
		return Observation{}, fmt.Errorf("%s: whether there is a socket %q is %v", word, args[0], s != nil)
	}
	o, err := v.do(p, args[0], s, args[1:])
	if err != nil {
		return o, fmt.Errorf("%s %s: %w", word, args[0], err)
	}
	return o, nil
}

// Reset closes every socket.
func (p *Peer) Reset() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	for name, s := range p.sockets {
		errs = append(errs, s.close())
		delete(p.sockets, name)
	}
	return errors.Join(errs...)
}

func (s *socket) close() error {
	err := unix.Close(s.fd)
	if s.clean != nil {
		err = errors.Join(err, s.clean())
	}
	return err
}

func (p *Peer) keep(name string, s *socket) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sockets[name] = s
}

// said is an observation of the system's answer.
func said(err error) Observation { return Observation{Text: text(err)} }

func text(err error) string {
	var errno unix.Errno
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &errno):
		return unix.ErrnoName(errno)
	}
	return err.Error()
}

// errStuck is the end of Patience.
var errStuck = errors.New(Stuck)

// await waits until fd is ready for one of the events, has ended, or has failed. Linux 6.1 does not call a vsock connection
// writable that its peer has reset while it holds unread data, though a write fails at once; that it has ended it does say.
func await(fd int, events int16, deadline time.Time) error {
	events |= unix.POLLRDHUP
	for {
		left := time.Until(deadline)
		if left <= 0 {
			return errStuck
		}
		fds := []unix.PollFd{{Fd: int32(fd), Events: events}}
		n, err := unix.Poll(fds, int(left.Milliseconds())+1)
		if n > 0 {
			return nil
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// try makes a call until it does not ask to be made again later.
func try(fd int, events int16, limit time.Duration, call func() (int, error)) (int, error) {
	for deadline := time.Now().Add(limit); ; {
		n, err := call()
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			if err := await(fd, events, deadline); err != nil {
				return 0, err
			}
		default:
			return n, err
		}
	}
}

func number(s string) (uint64, error) { return strconv.ParseUint(s, 10, 32) }
