package guestapi

import (
	"encoding/binary"
	"fmt"
	"io"
)

// The guest's resolver is one vsock connection, opened by the host on PortResolver, that carries whole messages of DNS in both
// directions, in any order. So the guest opens no connection to the host, and one that is lost costs some messages, as a lossy
// network does. A later connection takes the place of an earlier one.
//
//	bytes 0..3   number of the question, chosen by the agent
//	byte  4      transport: 1 UDP, 2 TCP
//	bytes 5..6   length of the message, big endian
//	bytes 7..    message; of an answer, an empty one says that there is none
const resolverHeader = 7

// Transport is how a question of DNS came, and how it is to be asked.
type Transport byte

// Transports.
const (
	ByUDP Transport = 1
	ByTCP Transport = 2
)

// Network is the transport's name as package net has it.
func (t Transport) Network() string {
	if t == ByTCP {
		return "tcp"
	}
	return "udp"
}

// DNSMessage is a question or an answer.
type DNSMessage struct {
	Number    uint32
	Transport Transport
	Message   []byte // at most 65535 bytes
}

// WriteDNS writes a message in one piece.
func WriteDNS(w io.Writer, m DNSMessage) error {
	b := make([]byte, 0, resolverHeader+len(m.Message))
	b = binary.BigEndian.AppendUint32(b, m.Number)
	b = append(b, byte(m.Transport))
	b = binary.BigEndian.AppendUint16(b, uint16(len(m.Message)))
	_, err := w.Write(append(b, m.Message...))
	return err
}

// ReadDNS reads a message. At the end of the connection it returns io.EOF between two messages.
func ReadDNS(r io.Reader) (DNSMessage, error) {
	var h [resolverHeader]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return DNSMessage{}, err
	}
	m := DNSMessage{Number: binary.BigEndian.Uint32(h[:]), Transport: Transport(h[4])}
	if m.Transport != ByUDP && m.Transport != ByTCP {
		return DNSMessage{}, fmt.Errorf("%w: a message of DNS by transport %d", ErrProtocol, m.Transport)
	}
	m.Message = make([]byte, binary.BigEndian.Uint16(h[5:]))
	_, err := io.ReadFull(r, m.Message)
	return m, unexpected(err)
}
