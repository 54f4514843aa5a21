package guest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/runcvm/runcvm/internal/guestapi"
)

// resolverBed is a resolver at ports of the test's own, which stay open, for an agent's are never closed.
type resolverBed struct {
	*resolver
	t              *testing.T
	udp, tcp, port net.Addr // port is the host's
}

func newResolverBed(t *testing.T) *resolverBed {
	t.Helper()
	loopback := net.IPv4(127, 0, 0, 1)
	udp, err1 := net.ListenUDP("udp4", &net.UDPAddr{IP: loopback})
	tcp, err2 := net.ListenTCP("tcp4", &net.TCPAddr{IP: loopback})
	host, err3 := net.ListenTCP("tcp4", &net.TCPAddr{IP: loopback})
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	r := &resolver{questions: map[uint32]chan []byte{}}
	go r.acceptHost(host)
	go r.serveUDP(udp)
	go r.serveTCP(tcp)
	return &resolverBed{r, t, udp.LocalAddr(), tcp.Addr(), host.Addr()}
}

// dial connects to one of the ports, as a program of the container's or as the host.
func (b *resolverBed) dial(a net.Addr) net.Conn {
	b.t.Helper()
	c, err := net.Dial(a.Network(), a.String())
	if err == nil {
		b.t.Cleanup(func() { c.Close() })
		err = c.SetDeadline(time.Now().Add(20 * time.Second))
	}
	if err != nil {
		b.t.Fatal(err)
	}
	return c
}

// expectQuestion reads what the host is asked.
func (b *resolverBed) expectQuestion(host net.Conn, by guestapi.Transport, text string) guestapi.DNSMessage {
	b.t.Helper()
	m, err := guestapi.ReadDNS(host)
	if err != nil || m.Transport != by || string(m.Message) != text {
		b.t.Fatalf("the host is asked %q by transport %d (%v), want %q by %d", m.Message, m.Transport, err, text, by)
	}
	return m
}

// answer is the host's to a question.
func (b *resolverBed) answer(host net.Conn, m guestapi.DNSMessage, text string) {
	b.t.Helper()
	m.Message = []byte(text)
	if err := guestapi.WriteDNS(host, m); err != nil {
		b.t.Fatal(err)
	}
}

func (b *resolverBed) write(c net.Conn, text string) {
	b.t.Helper()
	if c.LocalAddr().Network() == "tcp" {
		text = string(binary.BigEndian.AppendUint16(nil, uint16(len(text)))) + text
	}
	if _, err := io.WriteString(c, text); err != nil {
		b.t.Fatal(err)
	}
}

// expectAnswer reads what a program gets.
func (b *resolverBed) expectAnswer(c net.Conn, want string) {
	b.t.Helper()
	if got, err := readAnswer(c); err != nil || got != want {
		b.t.Fatalf("the answer is %q (%v), want %q", got, err, want)
	}
}

func readAnswer(c net.Conn) (string, error) {
	message := make([]byte, maxUDPMessage)
	if c.LocalAddr().Network() == "udp" {
		n, err := c.Read(message)
		return string(message[:n]), err
	}
	var size [2]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return "", err
	}
	message = message[:binary.BigEndian.Uint16(size[:])]
	_, err := io.ReadFull(c, message)
	return string(message), err
}

// connect is a host's connection that the resolver has taken.
func (b *resolverBed) connect() net.Conn {
	b.t.Helper()
	host := b.dial(b.port)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		b.mu.Lock()
		taken := b.host
		b.mu.Unlock()
		if taken != nil && taken.RemoteAddr().String() == host.LocalAddr().String() {
			return host
		}
		if time.Now().After(deadline) {
			b.t.Fatal("the resolver does not take the host's connection")
		}
	}
}

func TestQuestionsGoToTheHostAsTheyCame(t *testing.T) {
	b := newResolverBed(t)
	host := b.connect()
	for _, way := range []struct {
		at net.Addr
		by guestapi.Transport
	}{{b.udp, guestapi.ByUDP}, {b.tcp, guestapi.ByTCP}} {
		program := b.dial(way.at)
		// A connection takes more than one question.
		for _, n := range []string{"1", "2"} {
			b.write(program, "question "+n)
			b.answer(host, b.expectQuestion(host, way.by, "question "+n), "answer "+n)
			b.expectAnswer(program, "answer "+n)
		}
	}
}

func TestEachGetsTheAnswerToItsOwnQuestion(t *testing.T) {
	b := newResolverBed(t)
	host := b.connect()
	var programs []net.Conn
	var questions []guestapi.DNSMessage
	for n, at := range []net.Addr{b.udp, b.tcp, b.udp, b.tcp} {
		program := b.dial(at)
		b.write(program, fmt.Sprint("question ", n))
		by := guestapi.ByUDP
		if at == b.tcp {
			by = guestapi.ByTCP
		}
		programs, questions = append(programs, program), append(questions, b.expectQuestion(host, by, fmt.Sprint("question ", n)))
	}
	b.answer(host, guestapi.DNSMessage{Number: 1 << 31, Transport: guestapi.ByUDP}, "nobody has asked")
	for n := range slices.Backward(programs) {
		b.answer(host, questions[n], fmt.Sprint("answer ", n))
	}
	for n, program := range programs {
		b.expectAnswer(program, fmt.Sprint("answer ", n))
	}
}

// Who asks by TCP learns that there is no answer; who asks by UDP asks again.
func TestAQuestionWithoutAnAnswerEndsItsConnection(t *testing.T) {
	b := newResolverBed(t)
	expectEnd := func(c net.Conn) {
		t.Helper()
		if got, err := readAnswer(c); !errors.Is(err, io.EOF) {
			t.Errorf("the answer is %q, %v", got, err)
		}
	}
	t.Run("there is no host", func(*testing.T) {
		program := b.dial(b.tcp)
		b.write(program, "question")
		expectEnd(program)
	})
	t.Run("the host has none", func(*testing.T) {
		host := b.connect()
		program := b.dial(b.tcp)
		b.write(program, "question")
		b.answer(host, b.expectQuestion(host, guestapi.ByTCP, "question"), "")
		expectEnd(program)
	})
}

func TestTheHostsLastConnectionCounts(t *testing.T) {
	b := newResolverBed(t)
	first := b.connect()
	second := b.connect()
	if _, err := guestapi.ReadDNS(first); !errors.Is(err, io.EOF) {
		t.Errorf("the first connection: %v", err)
	}
	program := b.dial(b.udp)
	b.write(program, "question")
	b.answer(second, b.expectQuestion(second, guestapi.ByUDP, "question"), "answer")
	b.expectAnswer(program, "answer")
}
