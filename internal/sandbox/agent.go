package sandbox

import (
	"context"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"

	"github.com/runcvm/runcvm/internal/guestapi"
)

const (
	// callTimeout bounds a call of the agent that has nothing to wait for.
	callTimeout = 20 * time.Second
	// signalTimeout bounds the delivery of a signal: who sends SIGKILL wants to see an end soon.
	signalTimeout = 5 * time.Second
	// maxGuestText bounds a text from the guest in an error, in bytes.
	maxGuestText = 4 << 10
	// maxRelease bounds uname -r, in bytes: utsname's field has 65.
	maxRelease = 64
)

// AgentError is an agent's answer that refuses a call. The text is the guest's, bounded and printable.
type AgentError struct {
	Code codes.Code
	Text string
}

func (e *AgentError) Error() string {
	return fmt.Sprintf("the guest's agent answers %s: %s", e.Code, e.Text)
}

// Is lets a refusal be recognised by errdefs' sentinels.
func (e *AgentError) Is(target error) bool {
	switch e.Code {
	case codes.FailedPrecondition:
		return target == errdefs.ErrFailedPrecondition
	case codes.NotFound:
		return target == errdefs.ErrNotFound
	case codes.InvalidArgument:
		return target == errdefs.ErrInvalidArgument
	case codes.ResourceExhausted:
		return target == errdefs.ErrResourceExhausted
	}
	return false
}

// newAgent returns the agent at the other end of conn.
func newAgent(conn net.Conn) (*ttrpc.Client, guestapi.AgentService) {
	client := ttrpc.NewClient(conn, ttrpc.WithUnaryClientInterceptor(refusals))
	return client, guestapi.NewAgentClient(client)
}

// refusals makes an AgentError of an answer with a status, before anybody sees the guest's text as it came.
func refusals(ctx context.Context, req *ttrpc.Request, resp *ttrpc.Response, _ *ttrpc.UnaryClientInfo, invoke ttrpc.Invoker) error {
	if err := invoke(ctx, req, resp); err != nil {
		return err
	}
	if code := codes.Code(resp.GetStatus().GetCode()); code != codes.OK {
		return &AgentError{Code: code, Text: clean(resp.GetStatus().GetMessage(), maxGuestText)}
	}
	return nil
}

// within bounds a call of the agent by the time that a start's step may take; the context's cause names the step.
func (s *Sandbox) within(ctx context.Context, step string) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, s.cfg.BootTimeout,
		fmt.Errorf("the guest's agent has not %s within %s (setting boot_timeout)", step, s.cfg.BootTimeout))
}

// clean bounds a text of the guest and takes out what a terminal would act on.
func clean(text string, most int) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return ' '
		}
		return r
	}, text[:min(len(text), most)])
}
