package guest

import (
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/containerd/ttrpc"

	"github.com/runcvm/runcvm/internal/guestapi"
)

func TestContainerIDs(t *testing.T) {
	for id, want := range map[string]bool{
		"a": true, "A-b_c.0": true, "...": true, strings.Repeat("x", guestapi.MaxContainerID): true,
		"": false, ".": false, "..": false, "a/b": false, "a b": false, "ä": false, "a\x00": false,
		strings.Repeat("x", guestapi.MaxContainerID+1): false,
	} {
		if validID(id) != want {
			t.Errorf("%q: %v", id, !want)
		}
	}
}

// agentWithContainer is one that was set up, with the container "c".
func agentWithContainer(t *testing.T) (*agent, *container) {
	t.Helper()
	a := &agent{reaper: &reaper{waiting: map[int]chan exit{}}}
	a.state.init()
	a.state.setUp = true
	c, err := a.state.reserve("c")
	if err != nil {
		t.Fatal(err)
	}
	return a, c
}

func TestCallsOutOfOrderAreRefused(t *testing.T) {
	a := &agent{boot: newBootTask()}
	a.state.init()
	s := &service{a}
	ctx := context.Background()
	code := func(_ any, err error) codes.Code { return status.Code(err) }
	check := func(name string, got, want codes.Code) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	check("Create before Setup", code(s.Create(ctx, &guestapi.CreateRequest{ContainerId: "c"})), codes.FailedPrecondition)
	check("SyncClock before Setup", code(s.SyncClock(ctx, &guestapi.SyncClockRequest{})), codes.FailedPrecondition)
	check("log level", code(s.Setup(ctx, &guestapi.SetupRequest{LogLevel: "loud"})), codes.InvalidArgument)
	a.state.setUp = true
	check("second Setup", code(s.Setup(ctx, &guestapi.SetupRequest{})), codes.FailedPrecondition)
	check("bad id", code(s.Create(ctx, &guestapi.CreateRequest{ContainerId: "../x"})), codes.InvalidArgument)
	check("Start of an unknown one", code(s.Start(ctx, &guestapi.StartRequest{ContainerId: "c"})), codes.NotFound)
	check("Wait for an unknown one", code(s.Wait(ctx, &guestapi.WaitRequest{ContainerId: "c"})), codes.NotFound)
	check("Signal to an unknown one", code(s.Signal(ctx, &guestapi.SignalRequest{ContainerId: "c"})), codes.NotFound)
	c, err := a.state.reserve("c")
	if err != nil {
		t.Fatal(err)
	}
	check("Create of the same", code(s.Create(ctx, &guestapi.CreateRequest{ContainerId: "c"})), codes.AlreadyExists)
	check("Start before Create is done", code(s.Start(ctx, &guestapi.StartRequest{ContainerId: "c"})), codes.FailedPrecondition)
	check("Wait before Start", code(s.Wait(ctx, &guestapi.WaitRequest{ContainerId: "c"})), codes.FailedPrecondition)
	check("Signal before Start", code(s.Signal(ctx, &guestapi.SignalRequest{ContainerId: "c", Signal: 9})), codes.FailedPrecondition)
	check("no signal", code(s.Signal(ctx, &guestapi.SignalRequest{ContainerId: "c", Signal: 65})), codes.InvalidArgument)
	c.began(1 << 22)
	c.finish(exit{code: 7, at: time.Unix(1, 0)})
	for range 2 {
		w, err := s.Wait(ctx, &guestapi.WaitRequest{ContainerId: "c"})
		if err != nil || w.ExitCode != 7 || w.ExitedUnixNanos != 1e9 {
			t.Errorf("Wait: %v %v", w, err)
		}
	}
	check("Signal after the end", code(s.Signal(ctx, &guestapi.SignalRequest{ContainerId: "c", Signal: 9})), codes.FailedPrecondition)
	d, err := a.state.reserve("d")
	if err != nil {
		t.Fatal(err)
	}
	if err := d.advance(phaseCreating, phaseCreated); err != nil {
		t.Fatal(err)
	}
	a.state.close()
	check("Start while closing", code(s.Start(ctx, &guestapi.StartRequest{ContainerId: "d"})), codes.FailedPrecondition)
	check("Create while closing", code(s.Create(ctx, &guestapi.CreateRequest{ContainerId: "e"})), codes.FailedPrecondition)
}

func TestCreateFailsWithTheReasonWhyTheGuestIsNotReady(t *testing.T) {
	a := &agent{boot: newBootTask()}
	a.state.init()
	a.state.setUp = true
	a.boot.run(func() error { panic("no cgroups here") })
	_, err := (&service{a}).Create(context.Background(), &guestapi.CreateRequest{ContainerId: "c"})
	if err == nil || !strings.Contains(err.Error(), "no cgroups here") {
		t.Errorf("%v", err)
	}
	if _, err := a.state.get("c"); err == nil {
		t.Error("the container is still there")
	}
}

func TestPanicInACallIsItsError(t *testing.T) {
	_, err := recoverPanic(context.Background(), nil, &ttrpc.UnaryServerInfo{FullMethod: "/x/Y"},
		func(context.Context, func(any) error) (any, error) { panic("oops") })
	if err == nil || !strings.Contains(err.Error(), "/x/Y") || !strings.Contains(err.Error(), "oops") {
		t.Errorf("%v", err)
	}
}

func TestLogLinesAreBounded(t *testing.T) {
	var out strings.Builder
	for _, n := range []int{10, maxLogLine, maxLogLine + 1, 1 << 20} {
		out.Reset()
		line := strings.Repeat("x", n-1) + "\n"
		if written, err := (lineWriter{&out}).Write([]byte(line)); err != nil || written != n {
			t.Errorf("%d bytes: %d, %v", n, written, err)
		}
		if out.Len() != min(n, maxLogLine) || !strings.HasSuffix(out.String(), "\n") {
			t.Errorf("%d bytes became %d", n, out.Len())
		}
	}
}
