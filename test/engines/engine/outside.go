//go:build e2e

package engine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/runcvm/runcvm/test/serve"
)

// Addresses of the neighbour of each host, and names that its name server knows: IPv6Name has no IPv4 address, and the answer for
// TCPName comes by TCP only. The host itself, at Host4, has a name server too, which knows PrivateName beside these.
const (
	Host4       = "198.18.0.2"
	Outside4    = "198.18.0.1"
	Outside6    = "fd00:198::1"
	OutsideName = "outside.example"
	IPv6Name    = "outside6.example"
	TCPName     = "tcp.example"
	PrivateName = "private.example"
)

// ServeOutside runs a name server and a web server, which tells each client its address, in the neighbour's network, and a name server on
// the host.
func (h *Host) ServeOutside() {
	h.t.Helper()
	err := h.InNetwork("outside", func() error {
		web, err := net.Listen("tcp", ":80")
		if err != nil {
			return err
		}
		h.t.Cleanup(func() { _ = web.Close() })
		// Until it is closed.
		go func() {
			_ = http.Serve(web, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				host, _, _ := net.SplitHostPort(r.RemoteAddr)
				fmt.Fprintln(w, "hello from outside to", host)
			}))
		}()
		return h.serveNames("", OutsideName, IPv6Name, TCPName)
	})
	if err == nil {
		err = h.InNetwork("", func() error { return h.serveNames(Host4, OutsideName, IPv6Name, TCPName, PrivateName) })
	}
	if err != nil {
		h.t.Fatal(err)
	}
}

// serveNames runs a name server, until the test's end, in the network that the calling thread is in.
func (h *Host) serveNames(address string, names ...string) error {
	udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(address), Port: 53})
	if err != nil {
		return err
	}
	tcp, err := net.Listen("tcp", net.JoinHostPort(address, "53"))
	if err != nil {
		return errors.Join(err, udp.Close())
	}
	h.t.Cleanup(func() { _, _ = udp.Close(), tcp.Close() })
	n := nameServer(names)
	// Until they are closed.
	go func() { _ = serve.Datagrams(udp, func(b []byte) []byte { return n.answer(b, false) }) }()
	go serve.Connections(tcp, n.answerConnection)
	return nil
}

// nameServer are the names that a name server knows.
type nameServer []string

// answerConnection answers questions by TCP, each with its length before it (RFC 1035, section 4.2.2).
func (n nameServer) answerConnection(c net.Conn) {
	defer c.Close()
	for {
		var length [2]byte
		if _, err := io.ReadFull(c, length[:]); err != nil {
			return
		}
		b := make([]byte, binary.BigEndian.Uint16(length[:]))
		if _, err := io.ReadFull(c, b); err != nil {
			return
		}
		reply := n.answer(b, true)
		if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...)); err != nil {
			return
		}
	}
}

// answer is the reply to a question, or nil.
func (n nameServer) answer(question []byte, tcp bool) []byte {
	var p dnsmessage.Parser
	header, err := p.Start(question)
	if err != nil {
		return nil
	}
	q, err := p.Question()
	if err != nil {
		return nil
	}
	reply := dnsmessage.Message{
		Header: dnsmessage.Header{ID: header.ID, Response: true, Authoritative: true, RecursionDesired: header.RecursionDesired,
			RecursionAvailable: true},
		Questions: []dnsmessage.Question{q},
	}
	resource := dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 1}
	switch name := strings.TrimSuffix(strings.ToLower(q.Name.String()), "."); {
	case !slices.Contains(n, name):
		reply.RCode = dnsmessage.RCodeNameError
	case name == TCPName && !tcp:
		reply.Truncated = true
	case q.Type == dnsmessage.TypeA && name != IPv6Name:
		reply.Answers = []dnsmessage.Resource{{Header: resource, Body: &dnsmessage.AResource{A: netip.MustParseAddr(Outside4).As4()}}}
	case q.Type == dnsmessage.TypeAAAA:
		body := &dnsmessage.AAAAResource{AAAA: netip.MustParseAddr(Outside6).As16()}
		reply.Answers = []dnsmessage.Resource{{Header: resource, Body: body}}
	}
	b, err := reply.Pack()
	if err != nil {
		return nil
	}
	return b
}
