package guest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/runcvm/runcvm/internal/guestapi"
)

const (
	// maxQuestions bounds the questions that wait for an answer; Docker's resolver has as many under way.
	maxQuestions = 1024
	// maxResolverConns bounds the TCP connections to the guest's resolver.
	maxResolverConns = 128
	// questionTimeout is longer than Docker's resolver takes at most, three servers of 4 s each.
	questionTimeout = 15 * time.Second
	// resolverIdle is how long a TCP connection may be silent (RFC 7766 wants seconds).
	resolverIdle = 30 * time.Second
	// hostWriteTimeout bounds a write to the host: a connection that takes nothing is as good as lost.
	hostWriteTimeout = 10 * time.Second
	// maxUDPMessage is the largest datagram.
	maxUDPMessage = 65535
)

// resolver answers at the address where containers look for Docker's resolver, by asking the host.
type resolver struct {
	mu        sync.Mutex
	host      net.Conn
	last      uint32
	questions map[uint32]chan []byte
}

// startResolver opens the ports for containers and the one for the host.
func startResolver(listen func(uint32) (net.Listener, error)) error {
	host, err := listen(guestapi.PortResolver)
	if err != nil {
		return fmt.Errorf("resolver: %w", err)
	}
	ip := net.ParseIP(guestapi.ResolverAddress)
	udp, err := net.ListenUDP("udp4", &net.UDPAddr{IP: ip, Port: 53})
	if err != nil {
		return errors.Join(fmt.Errorf("resolver: %w", err), host.Close())
	}
	tcp, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: ip, Port: 53})
	if err != nil {
		return errors.Join(fmt.Errorf("resolver: %w", err), host.Close(), udp.Close())
	}
	r := &resolver{questions: map[uint32]chan []byte{}}
	go r.acceptHost(host)
	go r.serveUDP(udp)
	go r.serveTCP(tcp)
	return nil
}

// acceptHost takes the host's connections; the last one counts.
func (r *resolver) acceptHost(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			slog.Error("the resolver has stopped", "error", err)
			return
		}
		r.mu.Lock()
		old := r.host
		r.host = c
		r.mu.Unlock()
		if old != nil {
			old.Close()
		}
		go r.answers(c)
	}
}

// answers hands out what the host answers on a connection, until its end.
func (r *resolver) answers(c net.Conn) {
	defer c.Close()
	for {
		m, err := guestapi.ReadDNS(c)
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
				slog.Warn("the host's answers have stopped", "error", err)
			}
			return
		}
		r.mu.Lock()
		answer := r.questions[m.Number]
		delete(r.questions, m.Number)
		r.mu.Unlock()
		if answer != nil {
			answer <- m.Message
		}
	}
}

// ask asks the host and waits. No answer is an empty one.
func (r *resolver) ask(question []byte, by guestapi.Transport) []byte {
	answer := make(chan []byte, 1)
	r.mu.Lock()
	if r.host == nil || len(r.questions) >= maxQuestions {
		r.mu.Unlock()
		return nil
	}
	r.last++
	number := r.last
	r.questions[number] = answer
	err := r.host.SetWriteDeadline(time.Now().Add(hostWriteTimeout))
	if err == nil {
		// Under the lock, so that messages do not mix.
		err = guestapi.WriteDNS(r.host, guestapi.DNSMessage{Number: number, Transport: by, Message: question})
	}
	if err != nil {
		r.host.Close() // the host opens another one
		r.host = nil
		delete(r.questions, number)
	}
	r.mu.Unlock()
	if err != nil {
		return nil
	}
	t := time.NewTimer(questionTimeout)
	defer t.Stop()
	select {
	case a := <-answer:
		return a
	case <-t.C:
		r.mu.Lock()
		delete(r.questions, number)
		r.mu.Unlock()
		return nil
	}
}

func (r *resolver) serveUDP(c *net.UDPConn) {
	busy := make(chan struct{}, maxQuestions)
	buf := make([]byte, maxUDPMessage)
	for {
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if err != nil {
			slog.Warn("resolver: a question is lost", "error", err)
			time.Sleep(acceptPause)
			continue
		}
		select {
		case busy <- struct{}{}:
		default:
			continue // as a network under load does; the asker asks again
		}
		question := append([]byte(nil), buf[:n]...)
		go func() {
			defer func() { <-busy }()
			if a := r.ask(question, guestapi.ByUDP); len(a) > 0 {
				_, _ = c.WriteToUDPAddrPort(a, from) // an asker that is gone wants none
			}
		}()
	}
}

func (r *resolver) serveTCP(l net.Listener) {
	busy := make(chan struct{}, maxResolverConns)
	for {
		c, err := l.Accept()
		if err != nil {
			slog.Warn("resolver: a connection is lost", "error", err)
			time.Sleep(acceptPause)
			continue
		}
		busy <- struct{}{}
		go func() {
			defer func() { <-busy }()
			defer c.Close()
			for r.serveOne(c) == nil {
			}
		}()
	}
}

// serveOne answers one question of a TCP connection, each with its length in front (RFC 1035, 4.2.2).
func (r *resolver) serveOne(c net.Conn) error {
	if err := c.SetDeadline(time.Now().Add(resolverIdle)); err != nil {
		return err
	}
	var size [2]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return err
	}
	question := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(c, question); err != nil {
		return err
	}
	a := r.ask(question, guestapi.ByTCP)
	if len(a) == 0 {
		return errors.New("no answer")
	}
	_, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(a))), a...))
	return err
}
