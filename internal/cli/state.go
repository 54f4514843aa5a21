package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/runcvm/runcvm/internal/container"
	"github.com/runcvm/runcvm/internal/monitor"
	"github.com/runcvm/runcvm/internal/sandbox"
)

// settlePause lies between two looks at a container's state.
const settlePause = 20 * time.Millisecond

// settled finds a container and waits until it is neither starting nor about to end: as in Docker a verb that comes meanwhile is
// obeyed afterwards.
func (a *app) settled(ctx context.Context, ref string) (*container.Entry, error) {
	e, err := a.containers().Find(ref)
	for err == nil && e.Alive && !isSettled(e) {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(settlePause):
		}
		e, err = a.containers().Find(e.ID)
	}
	return e, err
}

func isSettled(e *container.Entry) bool {
	switch e.State {
	case string(sandbox.Running), string(sandbox.Paused), container.Restarting:
		return true
	}
	return false
}

// forEach calls a verb for each argument, prints those for which it succeeded, and joins the errors.
func (a *app) forEach(refs []string, verb func(ref string) error) error {
	return a.forEachFound(refs, false, verb)
}

// forEachFound is forEach where, with force, something that is not found is told and no failure, as with Docker.
func (a *app) forEachFound(refs []string, force bool, verb func(ref string) error) error {
	var errs []error
	for _, ref := range refs {
		err := verb(ref)
		if force && errdefs.IsNotFound(err) {
			a.tell(err)
			continue
		}
		if err == nil {
			fmt.Fprintln(a.stdout, ref)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// errMonitorGone says that a monitor ended before it answered.
var errMonitorGone = errors.New("its monitor has ended")

// ask calls a container's monitor. A monitor that is gone is errMonitorGone; the texts of refusals are for people.
func (a *app) ask(ctx context.Context, e *container.Entry, call func(context.Context, *monitor.Client) error) error {
	c, err := monitor.Dial(ctx, e)
	if err != nil {
		if now, ferr := a.containers().Find(e.ID); errdefs.IsNotFound(ferr) || ferr == nil && !now.Alive {
			return errMonitorGone
		}
		return err
	}
	defer func() { _ = c.Close() }() // all that was asked for is answered
	err = call(ctx, c)
	s, ok := status.FromError(err)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case ok && s.Code() == codes.FailedPrecondition:
		return fmt.Errorf("container %s: %s: %w", e.Name, s.Message(), errdefs.ErrFailedPrecondition)
	case ok && s.Code() != codes.Unknown:
		return fmt.Errorf("container %s: %s", e.Name, s.Message())
	}
	if now, ferr := a.containers().Find(e.ID); errdefs.IsNotFound(ferr) || ferr == nil && !now.Alive {
		return errMonitorGone
	}
	if ok {
		return fmt.Errorf("container %s: %s", e.Name, s.Message())
	}
	return fmt.Errorf("container %s: %w", e.Name, err)
}
