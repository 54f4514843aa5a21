package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"strings"

	"github.com/containerd/ttrpc"

	"github.com/runcvm/runcvm/internal/guestapi"
)

func silent(c net.Conn) { _, _ = io.Copy(io.Discard, c) }

func garbage(c net.Conn) {
	block := bytes.Repeat([]byte("\x00\x00\x00\x05\x00\x00\x00\x01\x02\x00\xff\xff\xff\xff\xff garbage"), 1000)
	for {
		if _, err := c.Write(block); err != nil {
			return
		}
	}
}

// ttrpcHeader is the length of a frame's header: length, stream, type, flags (ttrpc's PROTOCOL.md).
const ttrpcHeader = 10

func huge(c net.Conn) {
	const answer = 10 << 20
	h := make([]byte, ttrpcHeader)
	for {
		if _, err := io.ReadFull(c, h); err != nil {
			return
		}
		if _, err := io.CopyN(io.Discard, c, int64(binary.BigEndian.Uint32(h))); err != nil {
			return
		}
		binary.BigEndian.PutUint32(h, answer)
		h[8] = 2 // a response
		if _, err := c.Write(append(h, bytes.Repeat([]byte("A"), answer+1000)...)); err != nil {
			return
		}
	}
}

// serve answers calls by s.
func serve(s *service) func(net.Conn) {
	return func(c net.Conn) {
		server, err := ttrpc.NewServer()
		if err != nil {
			fmt.Fprintln(os.Stderr, "hostileagent:", err)
			return
		}
		guestapi.RegisterAgentService(server, s)
		_ = server.Serve(context.Background(), &once{conn: c, closed: make(chan struct{})})
	}
}

// once is a listener with one connection.
type once struct {
	conn   net.Conn
	closed chan struct{}
}

func (o *once) Accept() (net.Conn, error) {
	if c := o.conn; c != nil {
		o.conn = nil
		return c, nil
	}
	<-o.closed
	return nil, net.ErrClosed
}

func (o *once) Close() error   { return nil }
func (o *once) Addr() net.Addr { return &net.UnixAddr{} }

// service says yes to everything and does nothing.
type service struct {
	release  string
	exitCode uint32
	endless  bool
}

func (s *service) Setup(context.Context, *guestapi.SetupRequest) (*guestapi.SetupResponse, error) {
	return &guestapi.SetupResponse{AgentVersion: s.release, KernelRelease: s.release}, nil
}

func (s *service) Create(context.Context, *guestapi.CreateRequest) (*guestapi.CreateResponse, error) {
	return &guestapi.CreateResponse{}, nil
}

func (s *service) Start(context.Context, *guestapi.StartRequest) (*guestapi.StartResponse, error) {
	return &guestapi.StartResponse{Pid: 1}, nil
}

func (s *service) Wait(context.Context, *guestapi.WaitRequest) (*guestapi.WaitResponse, error) {
	if s.endless {
		select {}
	}
	return &guestapi.WaitResponse{ExitCode: s.exitCode}, nil
}

func (s *service) Signal(context.Context, *guestapi.SignalRequest) (*guestapi.SignalResponse, error) {
	return &guestapi.SignalResponse{}, nil
}

func (s *service) SyncClock(context.Context, *guestapi.SyncClockRequest) (*guestapi.SyncClockResponse, error) {
	return &guestapi.SyncClockResponse{OffsetNanos: -1 << 63}, nil
}

func (s *service) Shutdown(context.Context, *guestapi.ShutdownRequest) (*guestapi.ShutdownResponse, error) {
	select {}
}

// accept takes a stream as the contract has it.
func accept(c net.Conn) (guestapi.Stream, error) {
	_, s, err := guestapi.AcceptStream(c)
	if err == nil {
		err = guestapi.Accept(c)
	}
	return s, err
}

func closeEarly(c net.Conn) {
	_, _ = accept(c)
	_ = c.Close()
}

func takeAndHold(c net.Conn) {
	if _, err := accept(c); err == nil {
		silent(c)
	}
}

// sendTwice sends output, its end twice, and more output after that.
func sendTwice(c net.Conn) {
	s, err := accept(c)
	if err != nil {
		return
	}
	text := s.String() + "\n"
	data := append([]byte{2, 0, 0, 0, byte(len(text))}, text...)
	end := []byte{3, 0, 0, 0, 0}
	if _, err := c.Write(bytes.Join([][]byte{data, end, end, data}, nil)); err == nil {
		silent(c)
	}
}

// lies is a text of n bytes that a terminal acts on.
func lies(n int) string { return strings.Repeat("\x1b[31mlie\r\n", n/10) }

func flood() {
	line := []byte(strings.Repeat("flood \x1b[31m", 100) + "\n")
	for {
		_, _ = os.Stderr.Write(line)
	}
}
