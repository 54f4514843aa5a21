package sandbox

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/runcvm/runcvm/internal/guestapi"
)

// ttrpcHeader is the length of a frame's header: length, stream, type, flags (ttrpc's PROTOCOL.md).
const ttrpcHeader = 10

// frame makes a frame of a payload.
func frame(stream uint32, kind byte, payload []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(payload)))
	b = binary.BigEndian.AppendUint32(b, stream)
	return append(append(b, kind, 0), payload...)
}

func marshal(f *testing.F, m proto.Message) []byte {
	f.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		f.Fatal(err)
	}
	return b
}

// FuzzAgent answers the host's calls with any bytes: as they are, or as the payload of an answer to each call. Whatever
// they say, a call ends, and nothing of it that people will see is long or acts on their terminal.
func FuzzAgent(f *testing.F) {
	log.L.Logger.SetOutput(io.Discard) // ttrpc's complaints
	setup := marshal(f, &guestapi.SetupResponse{KernelRelease: "6.1.0"})
	ok := marshal(f, &ttrpc.Response{Payload: setup})
	f.Add(true, ok)
	f.Add(true, marshal(f, &ttrpc.Response{Payload: marshal(f, &guestapi.SetupResponse{KernelRelease: strings.Repeat("\x1b", 100)})}))
	f.Add(true, marshal(f, &ttrpc.Response{Payload: marshal(f, &guestapi.WaitResponse{ExitCode: 4_000_000_000})}))
	f.Add(true, marshal(f, &ttrpc.Response{Status: &spb.Status{Code: 9, Message: "\x1b[31mno\r"}}))
	f.Add(true, marshal(f, &ttrpc.Response{Status: &spb.Status{Code: 5, Message: "caf\u00e9 \u00a0\u00bf"}}))
	f.Add(false, append(frame(1, 2, ok), frame(3, 2, ok)...))
	f.Add(false, append(frame(7, 2, ok), frame(1, 3, ok)...))
	f.Add(false, frame(1, 2, nil)[:ttrpcHeader-1])
	f.Add(false, binary.BigEndian.AppendUint32(nil, 5<<20))
	f.Fuzz(func(t *testing.T, framed bool, answer []byte) {
		host, guest := net.Pipe()
		defer host.Close()
		go func() {
			defer guest.Close()
			answerCalls(guest, framed, answer)
		}()
		client, agent := newAgent(host)
		defer client.Close()
		s := &Sandbox{}
		var err error
		if s.guest, err = agent.Setup(t.Context(), &guestapi.SetupRequest{}); err != nil {
			showable(t, err.Error(), 2*maxGuestText)
		}
		showable(t, s.KernelRelease(), maxRelease)
		exec, err := agent.Exec(context.Background(), &guestapi.ExecRequest{})
		if err != nil {
			showable(t, err.Error(), 2*maxGuestText)
		}
		if _, err := agent.Resize(context.Background(), &guestapi.ResizeRequest{}); err != nil {
			showable(t, err.Error(), 2*maxGuestText)
		}
		if text := exec.GetError(); text != "" {
			showable(t, clean(text, maxGuestText), maxGuestText)
		}
		if code := execCode(exec.GetErrorCode()); code < 125 || code > 127 {
			t.Errorf("a refusal with exit code %d", code)
		}
		wait, err := agent.Wait(context.Background(), &guestapi.WaitRequest{})
		if err != nil {
			showable(t, err.Error(), 2*maxGuestText)
			return
		}
		if exit := exitOf(wait); exit.Code < 0 || exit.Code > 255 || wait.GetExitCode() != uint32(exit.Code) && exit.Err == nil {
			t.Errorf("exit code %d becomes %+v", wait.GetExitCode(), exit)
		}
	})
}

// answerCalls reads calls and answers them until the host or the bytes have come to their end.
func answerCalls(conn net.Conn, framed bool, answer []byte) {
	for {
		h := make([]byte, ttrpcHeader)
		if _, err := io.ReadFull(conn, h); err != nil {
			return
		}
		if _, err := io.CopyN(io.Discard, conn, int64(binary.BigEndian.Uint32(h))); err != nil {
			return
		}
		if !framed {
			_, _ = conn.Write(answer)
			return
		}
		if _, err := conn.Write(frame(binary.BigEndian.Uint32(h[4:]), 2, answer)); err != nil {
			return
		}
	}
}

// showable checks a text that people will see.
func showable(t *testing.T, text string, most int) {
	t.Helper()
	if len(text) > most {
		t.Errorf("a text of %d bytes", len(text))
	}
	if !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return unicode.IsControl(r) }) {
		t.Errorf("a text that a terminal acts on: %.200q", text)
	}
}
