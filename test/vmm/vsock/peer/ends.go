package peer

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Guest is the end in the guest.
func Guest() *Peer {
	p := newPeer()
	p.dial, p.listen = dialVsock, listenVsock
	return p
}

// Host is the end on the host's side of a VMM whose Unix socket is at path.
func Host(path string) *Peer {
	p := newPeer()
	p.path = path
	p.dial = p.dialUnix
	p.listen = p.listenUnix
	return p
}

const sockType = unix.SOCK_STREAM | unix.SOCK_NONBLOCK | unix.SOCK_CLOEXEC

// dialVsock connects to a port of the host. Linux gives up after 2 s.
func dialVsock(port uint32) (int, string, error) {
	fd, err := unix.Socket(unix.AF_VSOCK, sockType, 0)
	if err != nil {
		return -1, "", err
	}
	err = unix.Connect(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_HOST, Port: port})
	if errors.Is(err, unix.EINPROGRESS) {
		if err = await(fd, unix.POLLOUT, time.Now().Add(Patience)); err == nil {
			var errno int
			if errno, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR); err == nil && errno != 0 {
				err = unix.Errno(errno)
			}
		}
	}
	if err != nil {
		unix.Close(fd)
		return -1, "", err
	}
	return fd, "ok", nil
}

func listenVsock(port uint32, backlog int) (int, func() error, error) {
	fd, err := unix.Socket(unix.AF_VSOCK, sockType, 0)
	if err != nil {
		return -1, nil, err
	}
	if err = unix.Bind(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: port}); err == nil {
		err = unix.Listen(fd, backlog)
	}
	if err != nil {
		unix.Close(fd)
		return -1, nil, err
	}
	return fd, nil, nil
}

// listenUnix listens where the VMM looks for a port of the host's.
func (p *Peer) listenUnix(port uint32, backlog int) (int, func() error, error) {
	path := fmt.Sprintf("%s_%d", p.path, port)
	fd, err := unix.Socket(unix.AF_UNIX, sockType, 0)
	if err != nil {
		return -1, nil, err
	}
	if err = unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err == nil {
		err = unix.Listen(fd, backlog)
	}
	if err != nil {
		unix.Close(fd)
		return -1, nil, err
	}
	return fd, func() error { return os.Remove(path) }, nil
}

func (p *Peer) connect() (int, error) {
	if p.path == "" {
		return -1, errors.New("only the host has the VMM's socket")
	}
	fd, err := unix.Socket(unix.AF_UNIX, sockType, 0)
	if err != nil {
		return -1, err
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: p.path}); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func (p *Peer) dialUnix(port uint32) (int, string, error) {
	fd, err := p.connect()
	if err != nil {
		return -1, "", err
	}
	s := &socket{fd: fd}
	if _, err = s.transmit(fmt.Appendf(nil, "CONNECT %d\n", port), Patience); err == nil {
		var line string
		if line, err = s.line(); err == nil && line == "OK PORT" {
			return fd, "ok", nil
		} else if err == nil {
			err = errors.New(line)
		}
	}
	unix.Close(fd)
	return -1, "", err
}

func (p *Peer) doOpen(name string, _ *socket, _ []string) (Observation, error) {
	fd, err := p.connect()
	if err != nil {
		return Observation{}, err
	}
	p.keep(name, &socket{fd: fd})
	return said(nil), nil
}

func (p *Peer) doAnswer(_ string, s *socket, _ []string) (Observation, error) {
	line, err := s.line()
	if err != nil {
		line = text(err)
	}
	return Observation{Text: line}, nil
}

// Ports that a VMM gives to connections of host programs (Firecracker v1.16, vsock/unix/muxer.rs: allocate_local_port).
const (
	firstPort = 1 << 30
	lastPort  = 1<<31 - 1
)

// line reads a VMM's answer to CONNECT, and not a byte more: "OK PORT" for a port in the range above, "end" where there is none.
func (s *socket) line() (string, error) {
	var line []byte
	const longest = 64
	for b := make([]byte, 1); len(line) < longest; {
		n, err := s.receive(b)
		if err != nil {
			return "", err
		}
		if n == 0 {
			return strings.TrimSpace(string(line) + " end"), nil
		}
		if b[0] == '\n' {
			break
		}
		line = append(line, b[0])
	}
	if text, ok := strings.CutPrefix(string(line), "OK "); ok {
		if port, err := strconv.ParseUint(text, 10, 32); err == nil && port >= firstPort && port <= lastPort {
			return "OK PORT", nil
		}
	}
	return strconv.Quote(string(line)), nil
}
