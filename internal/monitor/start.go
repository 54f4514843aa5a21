package monitor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"github.com/runcvm/runcvm/internal/cleanup"
	"github.com/runcvm/runcvm/internal/container"
	"github.com/runcvm/runcvm/internal/logfile"
	"github.com/runcvm/runcvm/internal/sandbox"
)

// cleanupTimeout bounds the end of a container that could not be started.
const cleanupTimeout = 30 * time.Second

// start brings the container up. After an error nothing of it is left but, where the container is to be kept, nothing
// either: a container that never ran is not kept.
func (m *monitor) start(ctx context.Context) (err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var undo cleanup.Stack
	undo.AddFunc(func() error { return m.files.Close(m.req.Name, true) })
	defer func() {
		if err == nil {
			return
		}
		if c := context.Cause(ctx); c != nil && !errors.Is(err, c) {
			err = fmt.Errorf("%w: %w", c, err)
		}
		err = errors.Join(err, undo.Run(ctx, cleanupTimeout))
	}()

	if m.server, err = serve(m.logger); err != nil {
		return err
	}
	undo.AddFunc(m.server.close)
	if err := m.bringUp(ctx, cancel, &undo); err != nil {
		return err
	}
	m.server.container.Store(m.container)
	m.update(func(r *container.Record) { r.State, r.Started = string(sandbox.Running), time.Now() })
	if err := m.files.WriteTimeline(m.timeline.Timeline()); err != nil {
		m.logger.Error("timeline not written", "error", err)
	}
	undo.Release()
	return nil
}

// bringUp is the part of a start that ends early when somebody asks for it.
func (m *monitor) bringUp(ctx context.Context, cancel context.CancelCauseFunc, undo *cleanup.Stack) (err error) {
	stop := m.abortOn(cancel)
	defer func() {
		stop()
		if err == nil {
			// Who asked for the end when all was done already is not to be overheard.
			err = context.Cause(ctx)
		}
	}()
	if err := m.prepare(ctx, undo); err != nil {
		return err
	}
	m.update(func(r *container.Record) {
		r.ImageDigest, r.Command = m.prep.image.Digest.String(), m.prep.spec.Args
		r.VMM = container.VMM{Path: m.prep.vmm.path, Version: m.prep.sandbox.VMMVersion(), Emulated: m.prep.vmm.emulated}
	})
	if err := m.prep.sandbox.Boot(ctx, m.prep.files()); err != nil {
		return err
	}
	if err := m.prep.disk.Opened(); err != nil {
		return err
	}
	if m.container, err = m.prep.sandbox.Create(ctx, m.req.ID, m.prep.disk.UUID, m.prep.rootfsUUID); err != nil {
		return err
	}
	m.update(func(r *container.Record) {
		r.State, r.Kernel = string(sandbox.Created), m.prep.sandbox.KernelRelease()
	})
	streams, err := m.streams()
	if err != nil {
		return err
	}
	undo.AddFunc(m.output.Close)
	return m.container.Start(ctx, streams)
}

// abortOn ends the start on a signal that asks for an end, or when the caller is gone, until the returned function is
// called.
func (m *monitor) abortOn(cancel context.CancelCauseFunc) (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case s := <-m.signals:
				if s == syscall.SIGTERM || s == syscall.SIGINT || s == syscall.SIGHUP {
					cancel(fmt.Errorf("interrupted by %s", s))
				}
			case <-m.callerGone:
				cancel(errors.New("the caller has ended"))
				return
			case <-m.server.killAsked:
				cancel(errors.New("it was removed while it was starting"))
				return
			case <-quit:
				return
			}
		}
	}()
	return func() {
		close(quit)
		<-done
	}
}

// streams are the container's standard files: the log, and the caller's unless detached.
func (m *monitor) streams() (sandbox.Streams, error) {
	var err error
	if m.output, err = logfile.Create(m.path(container.OutputLog), m.cfg.LogMaxSize); err != nil {
		return sandbox.Streams{}, err
	}
	// A log whose disk is full must not end the container's output.
	log := logfile.NewOutput(m.output.Lossy())
	s := sandbox.Streams{Stdout: log.Stream("stdout"), Stderr: log.Stream("stderr")}
	switch {
	case m.req.Stdin && m.req.Detach:
		// Like Docker's: open, and silent until somebody attaches.
		if s.Stdin, _, err = os.Pipe(); err != nil {
			return s, fmt.Errorf("make a pipe: %w", err)
		}
	case m.req.Stdin:
		s.Stdin = os.Stdin
	}
	if !m.req.Detach {
		s.Stdout, s.Stderr = io.MultiWriter(s.Stdout, os.Stdout), io.MultiWriter(s.Stderr, os.Stderr)
	}
	return s, nil
}
