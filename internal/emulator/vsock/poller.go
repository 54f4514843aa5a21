package vsock

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// token names a descriptor that is watched. Unlike descriptors, tokens are never used again.
type token uint64

// poller calls a function for each descriptor that is ready.
type poller struct {
	fd       int
	last     token
	handlers map[token]func(events uint32) error
	events   [64]unix.EpollEvent
}

func newPoller() (*poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make an epoll descriptor: %w", err)
	}
	return &poller{fd: fd, handlers: map[token]func(uint32) error{}}, nil
}

func (p *poller) close() error { return unix.Close(p.fd) }

func event(t token, events uint32) *unix.EpollEvent {
	return &unix.EpollEvent{Events: events, Fd: int32(t), Pad: int32(t >> 32)}
}

// watch calls h when one of the events is there. An error of h's ends wait.
func (p *poller) watch(fd int, events uint32, h func(uint32) error) (token, error) {
	t := p.last + 1
	if err := unix.EpollCtl(p.fd, unix.EPOLL_CTL_ADD, fd, event(t, events)); err != nil {
		return 0, fmt.Errorf("watch descriptor %d: %w", fd, err)
	}
	p.last = t
	p.handlers[t] = h
	return t, nil
}

// change sets other events to wait for. With EPOLLET those that are there already are reported again.
func (p *poller) change(fd int, t token, events uint32) error {
	if err := unix.EpollCtl(p.fd, unix.EPOLL_CTL_MOD, fd, event(t, events)); err != nil {
		return fmt.Errorf("watch descriptor %d: %w", fd, err)
	}
	return nil
}

// unwatch must come before fd is closed: others may hold the same open file, which would go on reporting events. No event that
// was there before is reported after it.
func (p *poller) unwatch(fd int, t token) {
	delete(p.handlers, t)
	_ = unix.EpollCtl(p.fd, unix.EPOLL_CTL_DEL, fd, nil) // fails only for a descriptor that is not watched
}

// wait sleeps until something is ready, or not at all with busy set, and calls the handlers.
func (p *poller) wait(busy bool) error {
	timeout := -1
	if busy {
		timeout = 0
	}
	n, err := unix.EpollWait(p.fd, p.events[:], timeout)
	if errors.Is(err, unix.EINTR) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("wait for events: %w", err)
	}
	for _, e := range p.events[:n] {
		if h := p.handlers[token(uint32(e.Fd))|token(uint32(e.Pad))<<32]; h != nil {
			if err := h(e.Events); err != nil {
				return err
			}
		}
	}
	return nil
}
