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
)

func main() {
	var err error
	switch len(os.Args) {
	case 2:
		err = serve(os.Args[1])
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

func serve(address string) error {
	c, err := net.ListenPacket("udp", address)
	if err != nil {
		return err
	}
	b := make([]byte, 64<<10)
	for {
		n, from, err := c.ReadFrom(b)
		if err != nil {
			return err
		}
		if _, err := c.WriteTo(b[:n], from); err != nil {
			return err
		}
	}
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
