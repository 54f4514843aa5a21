package vsock

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// listener is a bound Unix socket that remembers which file it made.
type listener struct {
	fd   int
	path string
	made os.FileInfo
}

// listenUnix binds a Unix stream socket. An existing file is an error (EADDRINUSE), as in Firecracker v1.16,
// vsock/unix/muxer.rs: new. The backlog is the system's greatest, which is what Rust's standard library asks for.
func listenUnix(path string) (*listener, error) {
	if path == "" {
		return nil, errors.New("bind a Unix socket: the path is empty")
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make a Unix socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return nil, errors.Join(fmt.Errorf("bind the Unix socket %s (%d bytes, 107 at most): %w", path, len(path), err),
			unix.Close(fd))
	}
	l := &listener{fd: fd, path: path}
	if l.made, err = os.Lstat(path); err == nil {
		err = unix.Listen(fd, -1)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen on the Unix socket %s: %w", path, err), l.close())
	}
	return l, nil
}

// close closes the socket and removes its file, unless that is another one by now. It may be called more than once.
func (l *listener) close() error {
	if l == nil || l.fd < 0 {
		return nil
	}
	err := unix.Close(l.fd)
	l.fd = -1
	if now, serr := os.Lstat(l.path); serr == nil && l.made != nil && os.SameFile(now, l.made) {
		err = errors.Join(err, os.Remove(l.path))
	}
	return err
}

func accept(fd int) (int, error) {
	n, _, err := unix.Accept4(fd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
	return n, err
}

// transient says that an operation on a non-blocking descriptor is to be tried again later.
func transient(err error) bool {
	return errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) || errors.Is(err, unix.ECONNABORTED)
}

// connectUnix connects to a Unix stream socket without waiting; EAGAIN says that the listener's backlog is full.
func connectUnix(path string) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}
