// Command udpecho answers each datagram with its content, at a port of every address; or, with an address and a text, it sends that
// until an answer comes, and prints it.
//
//	udpecho :PORT
//	udpecho HOST:PORT TEXT
package main

import (
	"fmt"
	"net"
	"os"
	"time"

	"github.com/runcvm/runcvm/test/serve"
)

func main() {
	var err error
	switch len(os.Args) {
	case 2:
		err = listen(os.Args[1])
	case 3:
		err = ask(os.Args[1], os.Args[2])
	default:
		err = fmt.Errorf("usage: udpecho :PORT, or udpecho HOST:PORT TEXT")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "udpecho:", err)
		os.Exit(1)
	}
}

func listen(address string) error {
	at, err := net.ResolveUDPAddr("udp", address)
	if err != nil {
		return err
	}
	c, err := net.ListenUDP("udp", at)
	if err != nil {
		return err
	}
	return serve.EchoDatagrams(c)
}

// attempts are how often a datagram, which may get lost, is sent: one a second.
const attempts = 60

func ask(address, text string) error {
	c, err := net.Dial("udp", address)
	if err != nil {
		return err
	}
	b := make([]byte, 64<<10)
	for range attempts {
		if _, err = c.Write([]byte(text)); err == nil {
			_ = c.SetReadDeadline(time.Now().Add(time.Second))
			var n int
			if n, err = c.Read(b); err == nil {
				fmt.Printf("%s\n", b[:n])
				return nil
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	return fmt.Errorf("no answer from %s: %w", address, err)
}
