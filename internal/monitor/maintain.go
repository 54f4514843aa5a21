package monitor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/runcvm/runcvm/internal/cleanup"
	"github.com/runcvm/runcvm/internal/cni"
)

// maintenanceTimeout bounds the end of a maintenance: mostly the write-back of what was copied.
const maintenanceTimeout = time.Minute

// maintain boots a container's disks without running its process, so that its files can be copied, until the caller lets go. It
// returns the monitor's exit code. The container's state stays what it was, also where this monitor is killed.
func (m *monitor) maintain(ctx context.Context) int {
	l := m.newLife(m.req.Zero)
	var undo cleanup.Stack
	undo.AddFunc(func() error { return m.giveBack(nil) })
	err := l.beginMaintenance(ctx, &undo)
	if err != nil {
		err = errors.Join(err, undo.Run(ctx, cleanupTimeout))
	}
	report(m.status, err, false)
	if err != nil {
		return exitCode(err)
	}
	select {
	case <-m.callerGone:
	case <-m.server.killAsked:
	case <-l.prep.sandbox.Done():
	case <-m.signals: // all that can come ask for an end
	}
	m.server.container.Store(nil)
	err = l.prep.sandbox.Shutdown(ctx)
	if err != nil {
		err = fmt.Errorf("the guest did not shut down in order, so what was copied may not be on the container's disk: %w", err)
	}
	// In the reverse order: socket, VMM, disks, the container itself.
	if err = errors.Join(err, undo.Run(ctx, maintenanceTimeout)); err != nil {
		m.tell("the files could not be given back in order", err)
		return ExitFailure
	}
	return 0
}

// beginMaintenance is a start up to the point where the process would run.
func (l *life) beginMaintenance(ctx context.Context, undo *cleanup.Stack) (err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if l.server, err = serve(l.monitor); err != nil {
		return err
	}
	undo.AddFunc(l.server.close)
	stop := l.abortOn(cancel)
	defer func() {
		stop()
		if c := context.Cause(ctx); c != nil && !errors.Is(err, c) {
			err = errors.Join(c, err)
		}
	}()
	if err := l.prepare(ctx, undo); err != nil {
		return err
	}
	if err := l.prep.sandbox.Boot(ctx, l.prep.files()); err != nil {
		return err
	}
	if err := l.prep.disk.Opened(); err != nil {
		return err
	}
	if l.container, err = l.prep.sandbox.Create(ctx, l.req.ID, l.prep.disks()); err != nil {
		return err
	}
	l.server.readOnly = l.req.Options.ReadOnly
	l.server.container.Store(l.container)
	return nil
}

// Maintenance is the request for a boot of the container without its process, whose files are to be copied.
func (r Request) Maintenance() Request {
	r.Maintain, r.Again = true, true
	r.Detach, r.Attached, r.Stdin, r.Remove = false, false, false, false
	r.Restart, r.Timeout = RestartPolicy{}, 0
	r.Namespace, r.Attach, r.PublishAll = "", cni.Request{}, false
	return r
}

// Release lets go of a container under maintenance, and returns when its monitor has ended; an error says that what was copied may
// not have been kept.
func (s *Spawned) Release() error {
	s.lifeline.Close()
	code, killed, err := s.Wait()
	switch {
	case err != nil:
		return err
	case killed:
		return errors.New("the container's monitor was killed; what was copied may not be on its disk")
	case code != 0:
		return errors.New("the container's disk was not given back in order")
	}
	return nil
}
