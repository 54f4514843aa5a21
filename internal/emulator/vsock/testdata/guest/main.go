// Command guest is PID 1 of the machine in which the vsock device is tried against Linux's own driver. It serves these
// vsock ports:
//
//	5000  echo
//	5001  sink: a 64-bit length, that many bytes; answers with their SHA-256
//	5002  source: a 64-bit length; answers with that many bytes and their SHA-256
//	5003  a line "dial PORT CONNECTIONS BYTES": opens that many connections to the host at once, each sends and reads back as
//	      many bytes; answers with "ok\n" or what failed
//	5004  a line "halfclose PORT": connects to the host, shuts down sending, and copies what still comes to its caller
//	5005  accepts and never reads
//	5006  as 5001, and 5007 as 5002, but without sums, which take most of the time: answers with, and sends, zeros in their place
package main

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"net"

	"github.com/mdlayher/vsock"

	"github.com/runcvm/runcvm/test/pid1"
)

func main() { pid1.End(run()) }

func run() error {
	if err := pid1.Start(); err != nil {
		return err
	}
	for port, serve := range map[uint32]func(net.Conn) error{5000: echo, 5001: sink, 5002: source, 5003: dial, 5004: halfClose, 5005: stall,
		5006: discard, 5007: zeros} {
		l, err := vsock.Listen(port, nil)
		if err != nil {
			return err
		}
		go accept(l, serve)
	}
	cid, err := vsock.ContextID()
	if err != nil {
		return err
	}
	log.Printf("guest ready, cid %d", cid)
	select {}
}

func accept(l net.Listener, serve func(net.Conn) error) {
	for {
		c, err := l.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go func() {
			if err := serve(c); err != nil && !errors.Is(err, io.EOF) {
				log.Print(l.Addr(), ": ", err)
			}
			_ = c.Close()
		}()
	}
}

func echo(c net.Conn) error {
	_, err := io.CopyBuffer(struct{ io.Writer }{c}, struct{ io.Reader }{c}, make([]byte, 64<<10))
	return err
}

func length(c io.Reader) (int64, error) {
	var b [8]byte
	_, err := io.ReadFull(c, b[:])
	return int64(binary.BigEndian.Uint64(b[:])), err
}

func sink(c net.Conn) error {
	n, err := length(c)
	if err != nil {
		return err
	}
	h := sha256.New()
	if _, err := io.CopyBuffer(struct{ io.Writer }{h}, io.LimitReader(c, n), make([]byte, 256<<10)); err != nil {
		return err
	}
	_, err = c.Write(h.Sum(nil))
	if err != nil {
		return err
	}
	_, err = c.Read(make([]byte, 1)) // the host closes first: what is in flight at a close may be lost
	return err
}

func source(c net.Conn) error {
	n, err := length(c)
	if err != nil {
		return err
	}
	h := sha256.New()
	block := make([]byte, 256<<10)
	_, _ = rand.Read(block)
	for n > 0 {
		b := block[:min(n, int64(len(block)))]
		h.Write(b)
		if _, err := c.Write(b); err != nil {
			return err
		}
		n -= int64(len(b))
	}
	if _, err := c.Write(h.Sum(nil)); err != nil {
		return err
	}
	_, err = c.Read(make([]byte, 1))
	return err
}

func dial(c net.Conn) error {
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return err
	}
	var port uint32
	var conns, size int
	if _, err := fmt.Sscanf(line, "dial %d %d %d\n", &port, &conns, &size); err != nil {
		return err
	}
	errs := make(chan error, conns)
	for range conns {
		go func() { errs <- exchange(port, size) }()
	}
	answer := "ok"
	for range conns {
		if err := <-errs; err != nil {
			answer = err.Error()
		}
	}
	if _, err := fmt.Fprintln(c, answer); err != nil {
		return err
	}
	_, err = c.Read(make([]byte, 1))
	return err
}

func exchange(port uint32, size int) error {
	c, err := vsock.Dial(vsock.Host, port, nil)
	if err != nil {
		return err
	}
	defer c.Close()
	out, in := make([]byte, size), make([]byte, size)
	_, _ = rand.Read(out)
	wrote := make(chan error, 1)
	go func() {
		_, err := c.Write(out)
		wrote <- err
	}()
	if _, err := io.ReadFull(c, in); err != nil {
		return err
	}
	if err := <-wrote; err != nil {
		return err
	}
	if !bytes.Equal(in, out) {
		return errors.New("the host sent back other bytes")
	}
	return nil
}

func halfClose(c net.Conn) error {
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return err
	}
	var port uint32
	if _, err := fmt.Sscanf(line, "halfclose %d\n", &port); err != nil {
		return err
	}
	h, err := vsock.Dial(vsock.Host, port, nil)
	if err != nil {
		return err
	}
	defer h.Close()
	if err := h.CloseWrite(); err != nil {
		return err
	}
	_, err = io.Copy(c, h)
	return err
}

func discard(c net.Conn) error {
	n, err := length(c)
	for buf := make([]byte, 256<<10); n > 0 && err == nil; {
		var got int
		got, err = c.Read(buf[:min(n, int64(len(buf)))])
		n -= int64(got)
	}
	if err == nil {
		_, err = c.Write(make([]byte, sha256.Size))
	}
	if err == nil {
		_, err = c.Read(make([]byte, 1))
	}
	return err
}

func zeros(c net.Conn) error {
	n, err := length(c)
	n += sha256.Size
	for buf := make([]byte, 256<<10); n > 0 && err == nil; n -= int64(len(buf)) {
		buf = buf[:min(n, int64(len(buf)))]
		_, err = c.Write(buf)
	}
	if err == nil {
		_, err = c.Read(make([]byte, 1))
	}
	return err
}

func stall(net.Conn) error { select {} }
