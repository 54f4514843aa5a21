package vsock

import (
	"errors"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

var errBadConnect = errors.New(`expected "CONNECT <port>" and a newline, sent in one piece`)

// readConnect reads a host program's command from a non-blocking socket (Firecracker v1.16, vsock/unix/muxer.rs:
// read_local_stream_port): 10 bytes, then one at a time to the end of the line or to 32 bytes, and nothing is waited for. Any
// case of "connect" will do, any white space around the words, and anything after the port.
func readConnect(fd int) (uint32, error) {
	var buf [32]byte
	n := len("CONNECT 0\n")
	if err := readFull(fd, buf[:n]); err != nil {
		return 0, err
	}
	for buf[n-1] != '\n' && n < len(buf) {
		if err := readFull(fd, buf[n:n+1]); err != nil {
			return 0, err
		}
		n++
	}
	return parseConnect(buf[:n])
}

func parseConnect(line []byte) (uint32, error) {
	if !utf8.Valid(line) {
		return 0, errBadConnect
	}
	words := strings.Fields(string(line))
	if len(words) < 2 || strings.ToLower(words[0]) != "connect" {
		return 0, errBadConnect
	}
	// One plus sign is taken, as by Rust's u32::from_str; ParseUint takes none.
	port, err := strconv.ParseUint(strings.TrimPrefix(words[1], "+"), 10, 32)
	if err != nil {
		return 0, errBadConnect
	}
	return uint32(port), nil
}

func readFull(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := unix.Read(fd, b)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return errors.Join(errBadConnect, err)
		case n == 0:
			return errBadConnect
		default:
			b = b[n:]
		}
	}
	return nil
}

const (
	// maxSlowConnects bounds the connects of the guest's that wait for a full backlog; further ones are refused.
	maxSlowConnects = 64
	// slowConnectTimeout ends them. Firecracker waits without end, and with it the whole VM; a Linux guest gives up after 2 s.
	slowConnectTimeout = 5 * time.Second
)

// slowConnects are connects to a listener with a full backlog. A non-blocking connect fails there, so each waits in a goroutine
// of its own.
type slowConnects struct {
	wake    func()
	waiting map[connKey]bool // only the owner of the muxer touches this
	done    chan struct{}
	wg      sync.WaitGroup

	mu      sync.Mutex
	results []slowConnect
}

type slowConnect struct {
	key      connKey
	bufAlloc uint32
	fd       int // -1 where it failed
}

func newSlowConnects(wake func()) *slowConnects {
	return &slowConnects{wake: wake, waiting: map[connKey]bool{}, done: make(chan struct{})}
}

func (s *slowConnects) has(key connKey) bool { return s.waiting[key] }

// cancel forgets a connect. Its result, when it comes, is dropped.
func (s *slowConnects) cancel(key connKey) { delete(s.waiting, key) }

// start begins to wait, or returns false when too many do.
func (s *slowConnects) start(key connKey, bufAlloc uint32, path string) bool {
	if len(s.waiting) >= maxSlowConnects {
		return false
	}
	s.waiting[key] = true
	s.wg.Go(func() {
		r := slowConnect{key: key, bufAlloc: bufAlloc, fd: s.connect(path)}
		s.mu.Lock()
		s.results = append(s.results, r)
		s.mu.Unlock()
		s.wake()
	})
	return true
}

// finished returns what has come out since the last call.
func (s *slowConnects) finished() []slowConnect {
	s.mu.Lock()
	results := s.results
	s.results = nil
	s.mu.Unlock()
	kept := results[:0]
	for _, r := range results {
		if s.waiting[r.key] {
			delete(s.waiting, r.key)
			kept = append(kept, r)
		} else if r.fd >= 0 {
			_ = unix.Close(r.fd)
		}
	}
	return kept
}

// connect returns a connected socket in non-blocking mode, or -1.
func (s *slowConnects) connect(path string) int {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1
	}
	// In short waits, so that close need not wait long.
	tv := unix.NsecToTimeval(int64(100 * time.Millisecond))
	err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv)
	if err == nil {
		err = unix.EAGAIN
	}
	for deadline := time.Now().Add(slowConnectTimeout); errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR); {
		select {
		case <-s.done:
			err = unix.ECANCELED
			continue
		default:
		}
		if time.Now().After(deadline) {
			break
		}
		err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
	}
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1
	}
	return fd
}

// close ends all of them. It may be called more than once.
func (s *slowConnects) close() {
	select {
	case <-s.done:
	default:
		close(s.done)
	}
	s.wg.Wait()
	clear(s.waiting)
	s.finished()
}
