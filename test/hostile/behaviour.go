package hostile

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
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
		if _, err := c.Write(slices.Concat(h, bytes.Repeat([]byte("A"), answer+1000))); err != nil {
			return
		}
	}
}

// serve answers calls by s.
func serve(s *service) func(net.Conn) {
	return func(c net.Conn) {
		server, err := ttrpc.NewServer()
		if err != nil {
			panic(err)
		}
		guestapi.RegisterAgentService(server, s)
		guestapi.RegisterNetworkService(server, network{})
		guestapi.RegisterControlService(server, &control{never: errors.Is(s.signal, errNever)})
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

// service says yes to everything and does nothing, but for what its fields say.
type service struct {
	release  string
	exitCode uint32
	// endless lets the process run on, whatever the host sends.
	endless bool
	// orderly lets Shutdown be answered. signals gets the signals for the process, which ends by the first one.
	orderly bool
	signals chan uint32
	// setup, create, start, wait and signal are errors to answer with; errNever is no answer at all.
	setup, create, start, wait, signal error
	// refusal is why the process could not be executed.
	refusal *guestapi.StartResponse
	// exec and resize are as setup, execRefusal as refusal, for further processes.
	exec, resize error
	// execCode is a further process's exit code, execWait an error in its place.
	execCode    uint32
	execWait    error
	execRefusal *guestapi.ExecResponse
}

// errNever is the error of a call that is not answered.
var errNever = errors.New("never")

func answer[T any](value T, err error) (T, error) {
	if errors.Is(err, errNever) {
		select {}
	}
	return value, err
}

func (s *service) Setup(context.Context, *guestapi.SetupRequest) (*guestapi.SetupResponse, error) {
	return answer(&guestapi.SetupResponse{KernelRelease: s.release}, s.setup)
}

func (s *service) Create(context.Context, *guestapi.CreateRequest) (*guestapi.CreateResponse, error) {
	return answer(&guestapi.CreateResponse{}, s.create)
}

func (s *service) Start(context.Context, *guestapi.StartRequest) (*guestapi.StartResponse, error) {
	if s.refusal != nil {
		return s.refusal, nil
	}
	return answer(&guestapi.StartResponse{Pid: 1}, s.start)
}

func (s *service) Wait(_ context.Context, r *guestapi.WaitRequest) (*guestapi.WaitResponse, error) {
	if r.GetExecId() != "" {
		return answer(&guestapi.WaitResponse{ExitCode: s.execCode}, s.execWait)
	}
	if s.endless {
		select {}
	}
	if s.signals != nil {
		return &guestapi.WaitResponse{ExitCode: 128 + <-s.signals}, nil
	}
	return answer(&guestapi.WaitResponse{ExitCode: s.exitCode}, s.wait)
}

func (s *service) Signal(_ context.Context, r *guestapi.SignalRequest) (*guestapi.SignalResponse, error) {
	select {
	case s.signals <- r.GetSignal():
	default:
	}
	return answer(&guestapi.SignalResponse{}, s.signal)
}

func (s *service) Exec(context.Context, *guestapi.ExecRequest) (*guestapi.ExecResponse, error) {
	if s.execRefusal != nil {
		return s.execRefusal, nil
	}
	return answer(&guestapi.ExecResponse{Pid: 1}, s.exec)
}

func (s *service) Resize(context.Context, *guestapi.ResizeRequest) (*guestapi.ResizeResponse, error) {
	return answer(&guestapi.ResizeResponse{}, s.resize)
}

func (s *service) SyncClock(context.Context, *guestapi.SyncClockRequest) (*guestapi.SyncClockResponse, error) {
	return &guestapi.SyncClockResponse{OffsetNanos: -1 << 63}, nil
}

func (s *service) Shutdown(context.Context, *guestapi.ShutdownRequest) (*guestapi.ShutdownResponse, error) {
	if s.orderly {
		return &guestapi.ShutdownResponse{}, nil
	}
	select {}
}

// accept takes a stream as the contract has it.
func accept(c net.Conn) (guestapi.Stream, error) {
	_, _, s, err := guestapi.AcceptStream(c)
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

// honest sends output as the contract has it.
func honest(c net.Conn) {
	s, err := accept(c)
	if err != nil {
		return
	}
	// Standard input has no output; its receiver's end is the host's to say.
	if s != guestapi.Stdin {
		_ = guestapi.Send(c, io.NopCloser(strings.NewReader(s.String()+"\n")))
	}
	silent(c)
}

// sendAfterOpening sends these bytes once the stream is open.
func sendAfterOpening(b string) func(net.Conn) {
	return func(c net.Conn) {
		if _, err := accept(c); err != nil {
			return
		}
		if _, err := io.WriteString(c, b); err == nil {
			silent(c)
		}
	}
}

// sendInsteadOfOpening answers the opening with these bytes.
func sendInsteadOfOpening(b string) func(net.Conn) {
	return func(c net.Conn) {
		if _, err := io.WriteString(c, b); err == nil {
			silent(c)
		}
	}
}

func closeAtOnce(c net.Conn) { _ = c.Close() }
