package guest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/runcvm/runcvm/internal/guestapi"
)

func TestCompleteProcess(t *testing.T) {
	own := &process{user: execUser{UID: 5, GID: 6, AdditionalGids: []uint32{6, 7}, home: "/home/own"}}
	lookup := userLookup{
		user: func(spec string) (execUser, error) {
			if spec != "app" {
				return execUser{}, fmt.Errorf("no user %s", spec)
			}
			return execUser{UID: 1000, GID: 1001, AdditionalGids: []uint32{1002}, home: "/home/app"}, nil
		},
		groups: groups,
	}
	const raw = `{"args":["cmd","arg"],"env":["PATH=/bin"],"cwd":"/w","user":{"uid":0,"gid":0,"umask":18},"terminal":true,"future":[1]}`
	for _, c := range []struct {
		request   *guestapi.ExecRequest
		user, env string
		fault     string
	}{
		{request: &guestapi.ExecRequest{Process: []byte(raw)},
			user: `{"uid":5,"gid":6,"umask":18,"additionalGids":[6,7]}`, env: `["PATH=/bin","HOME=/home/own"]`},
		{request: &guestapi.ExecRequest{Process: []byte(raw), User: "app", Groups: []string{"audio", "42"}},
			user: `{"uid":1000,"gid":1001,"umask":18,"additionalGids":[1001,1002,29,42]}`, env: `["PATH=/bin","HOME=/home/app"]`},
		{request: &guestapi.ExecRequest{Process: []byte(strings.Replace(raw, "PATH=/bin", "HOME=/h", 1)), User: "app"},
			user: `{"uid":1000,"gid":1001,"umask":18,"additionalGids":[1001,1002]}`, env: `["HOME=/h"]`},
		{request: &guestapi.ExecRequest{Process: []byte(raw), User: "other"}, fault: "no user other"},
		{request: &guestapi.ExecRequest{Process: []byte("nonsense")}, fault: "the process: "},
		{request: &guestapi.ExecRequest{Process: []byte("{}")}, fault: "no command"},
		{request: &guestapi.ExecRequest{Process: []byte(`{"args":[""]}`)}, fault: "no command"},
		{request: &guestapi.ExecRequest{Process: []byte(`{"args":["a\u0000b"]}`)}, fault: "no command"},
		{request: &guestapi.ExecRequest{Process: []byte(`{"args":1}`)}, fault: "args"},
	} {
		text, p, err := completeProcess(c.request, own, lookup)
		if c.fault != "" {
			if err == nil || !strings.Contains(err.Error(), c.fault) {
				t.Errorf("%v: %v", c.request, err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		var got object
		if err := json.Unmarshal(text, &got); err != nil {
			t.Fatal(err)
		}
		if string(got["user"]) != c.user || string(got["env"]) != c.env || string(got["future"]) != "[1]" || !p.terminal ||
			!reflect.DeepEqual(p.args, []string{"cmd", "arg"}) || p.cwd != "/w" {
			t.Errorf("%v becomes %s and %+v", c.request, text, p)
		}
	}
	if !reflect.DeepEqual(own.user, execUser{UID: 5, GID: 6, AdditionalGids: []uint32{6, 7}, home: "/home/own"}) {
		t.Errorf("the container's own user has become %+v", own.user)
	}
}

func TestProcessesThatEndAreForgotten(t *testing.T) {
	c := newContainer("c")
	for i := range 5 * maxExecs {
		id := fmt.Sprint("e", i)
		e, err := c.execs.add("c", id)
		if err != nil {
			t.Fatal(err)
		}
		e.finish(exit{})
		c.execs.forget(id, e)
	}
	if len(c.execs.tasks) != 0 {
		t.Errorf("%d are left", len(c.execs.tasks))
	}
	for i := range maxExecs {
		if _, err := c.execs.add("c", fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.execs.add("c", "more"); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("one more: %v", err)
	}
	if _, err := c.execs.add("c", "7"); status.Code(err) != codes.AlreadyExists {
		t.Errorf("the same again: %v", err)
	}
}

func TestAProcessIsForgottenOnceItsStreamsAreDone(t *testing.T) {
	a, c := agentWithContainer(t)
	s := &service{a}
	e, err := c.execs.add("c", "e")
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	if _, err := s.Wait(ctx, &guestapi.WaitRequest{ContainerId: "c", ExecId: "e"}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("Wait before it runs: %v", err)
	}
	if _, err := s.Signal(ctx, &guestapi.SignalRequest{ContainerId: "c", ExecId: "e", All: true}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a signal to all of it: %v", err)
	}
	e.began(1 << 22)
	if _, err := s.Resize(ctx, &guestapi.ResizeRequest{ContainerId: "c", ExecId: "e"}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("Resize without a terminal: %v", err)
	}
	release := make(chan struct{})
	e.pumps.Go(func() { <-release })
	e.finish(exit{code: 3, at: time.Unix(1, 0)})
	if w, err := s.Wait(ctx, &guestapi.WaitRequest{ContainerId: "c", ExecId: "e"}); err != nil || w.ExitCode != 3 {
		t.Errorf("%v, %v", w, err)
	}
	if got, _, _ := c.execs.get("e"); got == nil {
		t.Error("it is forgotten with a stream to come")
	}
	close(release)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		got, late, _ := c.execs.get("e")
		if got == nil && late {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("it is not forgotten")
		}
	}
	if _, err := s.Wait(ctx, &guestapi.WaitRequest{ContainerId: "c", ExecId: "e"}); status.Code(err) != codes.NotFound {
		t.Errorf("Wait after it: %v", err)
	}
}

func TestExecIsRefused(t *testing.T) {
	a, c := agentWithContainer(t)
	s := &service{a}
	ask := func(r *guestapi.ExecRequest) codes.Code {
		_, err := s.Exec(context.Background(), r)
		return status.Code(err)
	}
	for name, got := range map[string][2]codes.Code{
		"in no container":     {ask(&guestapi.ExecRequest{ContainerId: "x", ExecId: "e"}), codes.NotFound},
		"without an id":       {ask(&guestapi.ExecRequest{ContainerId: "c"}), codes.InvalidArgument},
		"with a path as id":   {ask(&guestapi.ExecRequest{ContainerId: "c", ExecId: "../e"}), codes.InvalidArgument},
		"before it runs":      {ask(&guestapi.ExecRequest{ContainerId: "c", ExecId: "e"}), codes.FailedPrecondition},
		"with a huge process": {ask(&guestapi.ExecRequest{ContainerId: "c", ExecId: "e", Process: make([]byte, maxConfig+1)}), codes.InvalidArgument},
	} {
		if got[0] != got[1] {
			t.Errorf("%s: %v, want %v", name, got[0], got[1])
		}
	}
	c.began(1 << 22)
	c.finish(exit{})
	if got := ask(&guestapi.ExecRequest{ContainerId: "c", ExecId: "e"}); got != codes.FailedPrecondition {
		t.Errorf("after its end: %v", got)
	}
}

func TestAStreamWaitsForItsProcess(t *testing.T) {
	c, dial := streamServer(t)
	open := func(conn net.Conn) <-chan error {
		done := make(chan error, 1)
		go func() { done <- guestapi.OpenStream(conn, "c", "e", guestapi.Stdout) }()
		return done
	}
	early := open(dial())
	e, err := c.execs.add("c", "e")
	if err != nil {
		t.Fatal(err)
	}
	if err := <-early; err != nil {
		t.Errorf("a stream that came first: %v", err)
	}
	c.execs.forget("e", e)
	if err := <-open(dial()); err == nil || !strings.Contains(err.Error(), "no process") {
		t.Errorf("a stream that came late: %v", err)
	}
	waiting := make(chan error, 1)
	conn := dial()
	go func() { waiting <- guestapi.OpenStream(conn, "c", "other", guestapi.Stdout) }()
	c.finish(exit{})
	if err := <-waiting; err == nil || !strings.Contains(err.Error(), "no process") {
		t.Errorf("a stream in a container that has ended: %v", err)
	}
}

func TestACloseWakesWhoWaitsForTheHost(t *testing.T) {
	s := newStream(guestapi.Stdout)
	done := make(chan error, 1)
	go func() {
		_, err := s.take()
		done <- err
	}()
	s.close()
	s.close() // legal twice
	if err := <-done; err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}
