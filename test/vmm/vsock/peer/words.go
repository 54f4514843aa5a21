package peer

import (
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// verbs are the words that both ends know; those of one end only refuse the other.
var verbs map[string]verb

func init() {
	verbs = map[string]verb{
		"listen": {args: 2, do: (*Peer).doListen},               // listen L PORT BACKLOG
		"dial":   {args: 1, do: (*Peer).doDial},                 // dial C PORT
		"many":   {args: 2, do: (*Peer).doMany},                 // many - PORT CONNECTIONS: dials and keeps them
		"crowd":  {args: 3, do: (*Peer).doCrowd},                // crowd - PORT CONNECTIONS BYTES: dials, then all have them echoed at once
		"accept": {args: 1, do: (*Peer).doAccept},               // accept C L
		"echo":   {args: 1, exists: true, do: (*Peer).doEcho},   // echo L CONNECTIONS: accepts them and sends back what comes
		"write":  {args: 1, exists: true, do: (*Peer).doWrite},  // write C BYTES
		"fill":   {args: 0, exists: true, do: (*Peer).doFill},   // fill C: writes until there is no room for a second
		"read":   {args: 1, exists: true, do: (*Peer).doRead},   // read C BYTES
		"rest":   {args: 0, exists: true, do: (*Peer).doRest},   // rest C: reads to the end
		"drain":  {args: 0, exists: true, do: (*Peer).doDrain},  // drain C: reads to the end, however much that is
		"quiet":  {args: 0, exists: true, do: (*Peer).doQuiet},  // quiet C: is there anything to read?
		"shut":   {args: 1, exists: true, do: (*Peer).doShut},   // shut C send|receive|both
		"linger": {args: 1, exists: true, do: (*Peer).doLinger}, // linger C SECONDS
		"close":  {args: 0, exists: true, do: (*Peer).doClose},  // close S
		"open":   {args: 0, do: (*Peer).doOpen},                 // open C: the host's, connected to the VMM's socket
		"send":   {args: 1, exists: true, do: (*Peer).doSend},   // send C "TEXT"
		"answer": {args: 0, exists: true, do: (*Peer).doAnswer}, // answer C: the line that comes after CONNECT
		"expect": {args: 1, exists: true, do: (*Peer).doExpect}, // expect C "TEXT": reads as many bytes
	}
}

func (p *Peer) doListen(name string, _ *socket, args []string) (Observation, error) {
	port, err := number(args[0])
	if err != nil {
		return Observation{}, err
	}
	backlog, err := number(args[1])
	if err != nil {
		return Observation{}, err
	}
	fd, clean, err := p.listen(uint32(port), int(backlog))
	if err == nil {
		p.keep(name, &socket{fd: fd, clean: clean})
	}
	return said(err), nil
}

func (p *Peer) doDial(name string, _ *socket, args []string) (Observation, error) {
	port, err := number(args[0])
	if err != nil {
		return Observation{}, err
	}
	fd, answer, err := p.dial(uint32(port))
	if err != nil {
		return said(err), nil
	}
	p.keep(name, &socket{fd: fd})
	return Observation{Text: answer}, nil
}

func (p *Peer) doMany(_ string, _ *socket, args []string) (Observation, error) {
	connections, err := number(args[1])
	if err != nil {
		return Observation{}, err
	}
	for k := range connections {
		o, err := p.doDial(fmt.Sprintf("one of many %d", k), nil, args[:1])
		if err != nil || o.Text != "ok" {
			return Observation{Text: fmt.Sprintf("%d were made, then %s", k, o.Text)}, err
		}
	}
	return said(nil), nil
}

func (p *Peer) doAccept(name string, _ *socket, args []string) (Observation, error) {
	p.mu.Lock()
	l := p.sockets[args[0]]
	p.mu.Unlock()
	if l == nil {
		return Observation{}, fmt.Errorf("there is no listener %q", args[0])
	}
	fd, err := accept(l)
	if err == nil {
		p.keep(name, &socket{fd: fd})
	}
	return said(err), nil
}

func accept(l *socket) (int, error) {
	return try(l.fd, unix.POLLIN, Patience, func() (int, error) {
		fd, _, err := unix.Accept4(l.fd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		return fd, err
	})
}

func (p *Peer) doEcho(_ string, l *socket, args []string) (Observation, error) {
	connections, err := number(args[0])
	if err != nil {
		return Observation{}, err
	}
	var wg sync.WaitGroup
	for k := range connections {
		fd, err := accept(l)
		if err != nil {
			return Observation{Text: fmt.Sprintf("%d accepted, %s", k, text(err))}, nil
		}
		wg.Go(func() {
			defer unix.Close(fd)
			s := &socket{fd: fd}
			for buf := make([]byte, 32<<10); ; {
				n, err := s.receive(buf)
				if n == 0 || err != nil {
					return // what does not come back is missed by who has sent it
				}
				if _, err := s.transmit(buf[:n], Patience); err != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	return said(nil), nil
}

func (p *Peer) doCrowd(_ string, _ *socket, args []string) (Observation, error) {
	var n [3]uint64
	for k := range n {
		var err error
		if n[k], err = number(args[k]); err != nil {
			return Observation{}, err
		}
	}
	// One after the other: on a slow machine a dial could take the 2 s after which another one ends it.
	all := make([]*socket, n[1])
	for k := range all {
		fd, answer, err := p.dial(uint32(n[0]))
		if err == nil && answer != "ok" {
			err = errors.New(answer)
		}
		if err != nil {
			return Observation{Text: fmt.Sprintf("%d were made, then %s", k, text(err))}, nil
		}
		defer unix.Close(fd)
		all[k] = &socket{fd: fd}
	}
	failed := make(chan string, len(all))
	for _, s := range all {
		go func() { failed <- s.exchange(n[2]) }()
	}
	good := 0
	first := ""
	for range all {
		if f := <-failed; f == "" {
			good++
		} else if first == "" {
			first = ", the first: " + f
		}
	}
	return Observation{Text: fmt.Sprintf("%d came back%s", good, first)}, nil
}

// exchange has bytes echoed, and says what went wrong.
func (s *socket) exchange(bytes uint64) string {
	wrote := make(chan error, 1)
	go func() { wrote <- s.write(bytes, Patience) }()
	if end := s.read(bytes); end != "" {
		return end
	}
	if err := <-wrote; err != nil {
		return text(err)
	}
	return ""
}

// receive reads once; 0 bytes are the end.
func (s *socket) receive(buf []byte) (int, error) {
	return try(s.fd, unix.POLLIN, Patience, func() (int, error) { return unix.Read(s.fd, buf) })
}

// transmit writes all of buf, or returns how much of it went and why no more.
func (s *socket) transmit(buf []byte, limit time.Duration) (int, error) {
	for done := 0; ; {
		if done == len(buf) {
			return done, nil
		}
		n, err := try(s.fd, unix.POLLOUT, limit, func() (int, error) {
			return unix.SendmsgN(s.fd, buf[done:], nil, nil, unix.MSG_NOSIGNAL)
		})
		if err != nil {
			return done, err
		}
		done += n
	}
}

func (s *socket) write(bytes uint64, limit time.Duration) error {
	buf := make([]byte, min(bytes, 32<<10))
	for bytes > 0 {
		for k := range buf {
			buf[k] = octet(s.out + uint64(k))
		}
		n, err := s.transmit(buf[:min(bytes, uint64(len(buf)))], limit)
		s.out += uint64(n)
		bytes -= uint64(n)
		if err != nil {
			return err
		}
	}
	return nil
}

// read reads so many bytes, checks each, and says what ended it before.
func (s *socket) read(bytes uint64) (end string) {
	buf := make([]byte, 32<<10)
	for bytes > 0 {
		n, err := s.receive(buf[:min(bytes, uint64(len(buf)))])
		for k := range n {
			if buf[k] != octet(s.in+uint64(k)) {
				return fmt.Sprintf("a wrong byte at %d", s.in+uint64(k))
			}
		}
		switch {
		case err != nil:
			return text(err)
		case n == 0:
			return "end"
		}
		s.in += uint64(n)
		bytes -= uint64(n)
	}
	return ""
}

func (p *Peer) doWrite(_ string, s *socket, args []string) (Observation, error) {
	n, err := number(args[0])
	if err != nil {
		return Observation{}, err
	}
	return said(s.write(n, Patience)), nil
}

func (p *Peer) doFill(_ string, s *socket, _ []string) (Observation, error) {
	err := s.write(1<<40, pause)
	o := Observation{Text: text(err), Count: s.out}
	if o.Text == Stuck {
		o.Text = "full"
	}
	return o, nil
}

func (p *Peer) doRead(_ string, s *socket, args []string) (Observation, error) {
	n, err := number(args[0])
	if err != nil {
		return Observation{}, err
	}
	before := s.in
	if end := s.read(n); end != "" {
		return Observation{Text: fmt.Sprintf("%d bytes, %s", s.in-before, end)}, nil
	}
	return said(nil), nil
}

func (p *Peer) doRest(_ string, s *socket, _ []string) (Observation, error) {
	before := s.in
	end := s.read(1 << 40)
	return Observation{Text: fmt.Sprintf("%d bytes, %s", s.in-before, end)}, nil
}

func (p *Peer) doDrain(_ string, s *socket, _ []string) (Observation, error) {
	end := s.read(1 << 40)
	return Observation{Text: end, Count: s.in}, nil
}

// silence is how long a socket with nothing to read is looked at. What a script did before has been carried out by then in any
// case: the runner makes a round trip through the device first.
const silence = 100 * time.Millisecond

func (p *Peer) doQuiet(_ string, s *socket, _ []string) (Observation, error) {
	if err := await(s.fd, unix.POLLIN, time.Now().Add(silence)); err != nil {
		if text(err) == Stuck {
			return Observation{Text: "quiet"}, nil
		}
		return said(err), nil
	}
	n, _, err := unix.Recvfrom(s.fd, make([]byte, 1), unix.MSG_PEEK)
	switch {
	case err != nil:
		return said(err), nil
	case n == 0:
		return Observation{Text: "end"}, nil
	}
	return Observation{Text: "bytes"}, nil
}

func (p *Peer) doShut(_ string, s *socket, args []string) (Observation, error) {
	how, ok := map[string]int{"send": unix.SHUT_WR, "receive": unix.SHUT_RD, "both": unix.SHUT_RDWR}[args[0]]
	if !ok {
		return Observation{}, fmt.Errorf("%q is no direction", args[0])
	}
	return said(unix.Shutdown(s.fd, how)), nil
}

func (p *Peer) doLinger(_ string, s *socket, args []string) (Observation, error) {
	seconds, err := number(args[0])
	if err != nil {
		return Observation{}, err
	}
	return said(unix.SetsockoptLinger(s.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: int32(seconds)})), nil
}

func (p *Peer) doClose(name string, s *socket, _ []string) (Observation, error) {
	p.mu.Lock()
	delete(p.sockets, name)
	p.mu.Unlock()
	return said(s.close()), nil
}

func (p *Peer) doSend(_ string, s *socket, args []string) (Observation, error) {
	words, err := strconv.Unquote(args[0])
	if err != nil {
		return Observation{}, fmt.Errorf("%s is no Go string", args[0])
	}
	// One call, so that the reader finds it in one piece.
	n, err := try(s.fd, unix.POLLOUT, Patience, func() (int, error) {
		return unix.SendmsgN(s.fd, []byte(words), nil, nil, unix.MSG_NOSIGNAL)
	})
	if err == nil && n != len(words) {
		return Observation{}, fmt.Errorf("%d bytes of %d went", n, len(words))
	}
	return said(err), nil
}

func (p *Peer) doExpect(_ string, s *socket, args []string) (Observation, error) {
	words, err := strconv.Unquote(args[0])
	if err != nil {
		return Observation{}, fmt.Errorf("%s is no Go string", args[0])
	}
	var got []byte
	for len(got) < len(words) {
		buf := make([]byte, len(words)-len(got))
		n, err := s.receive(buf)
		if n <= 0 || err != nil {
			return Observation{Text: fmt.Sprintf("%q, %s", got, ending(err))}, nil
		}
		got = append(got, buf[:n]...)
	}
	if string(got) != words {
		return Observation{Text: fmt.Sprintf("%q", got)}, nil
	}
	return said(nil), nil
}

func ending(err error) string {
	if err == nil {
		return "end"
	}
	return text(err)
}
