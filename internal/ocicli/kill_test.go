package ocicli

import (
	"errors"
	"fmt"
	"testing"

	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc/codes"

	"github.com/runcvm/runcvm/internal/sandbox"
)

func TestASignalToAnEndedProcessIsSaidInEnginesWords(t *testing.T) {
	// As the monitor hands an agent's answer on.
	answer := func(code codes.Code) error {
		return errgrpc.ToGRPC(fmt.Errorf("send signal 9: %w", &sandbox.AgentError{Code: code, Text: "x is ended, not running"}))
	}
	if err := killError(answer(codes.FailedPrecondition)); !errors.Is(err, errNotRunning) {
		t.Errorf("%v", err)
	}
	for _, err := range []error{nil, answer(codes.Internal), answer(codes.InvalidArgument)} {
		if got := killError(err); got != err { //nolint:errorlint // the very same
			t.Errorf("%v became %v", err, got)
		}
	}
}
