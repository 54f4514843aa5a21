// Package serve has the loops of the servers of a few lines that tests, benchmarks and programs for guests need.
package serve

import (
	"io"
	"net"
)

// Connections calls handle for each connection, by a goroutine of its own, until the listener is closed. handle closes the connection.
func Connections(l net.Listener, handle func(net.Conn)) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go handle(c)
	}
}

// Echo sends back what comes, until that ends.
func Echo(c net.Conn) {
	defer c.Close()
	_, _ = io.Copy(c, c)
}

// Discard takes what comes, until that ends.
func Discard(c net.Conn) {
	defer c.Close()
	_, _ = io.Copy(io.Discard, c)
}

// maxDatagram is more than the longest datagram has.
const maxDatagram = 64 << 10

// Datagrams answers each datagram, where answer does not return nil, until the socket is closed, and returns why it ended.
func Datagrams(c *net.UDPConn, answer func([]byte) []byte) error {
	b := make([]byte, maxDatagram)
	for {
		n, from, err := c.ReadFromUDPAddrPort(b)
		if err != nil {
			return err
		}
		if reply := answer(b[:n]); reply != nil {
			// One that cannot be sent is lost, as on the way.
			_, _ = c.WriteToUDPAddrPort(reply, from)
		}
	}
}

// EchoDatagrams answers each datagram with its content.
func EchoDatagrams(c *net.UDPConn) error {
	return Datagrams(c, func(b []byte) []byte { return b })
}
