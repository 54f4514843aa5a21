package monitor

import (
	"context"
	"errors"
	"time"

	"github.com/containerd/errdefs"

	"github.com/runcvm/runcvm/internal/cleanup"
	"github.com/runcvm/runcvm/internal/container"
	"github.com/runcvm/runcvm/internal/logfile"
	"github.com/runcvm/runcvm/internal/sandbox"
)

// cleanupTimeout bounds the end of a container that could not be started.
const cleanupTimeout = 30 * time.Second

// own takes the container: a new one, or one that there is and that is to be started again.
func (m *monitor) own(ctx context.Context, pid int) (err error) {
	store := container.New(m.cfg.DataDir, m.cfg.RunDir)
	if !m.req.Again {
		m.record = container.Record{
			ID: m.req.ID, Name: m.req.Name, Image: m.req.Image, Created: time.Now(), State: string(sandbox.Creating),
			Pid: pid, Remove: m.req.Remove, Bundle: m.req.Bundle,
		}
		if m.files, err = m.create(ctx, store); err != nil {
			return err
		}
		if err := m.files.WriteRequest(m.req); err != nil {
			return errors.Join(err, m.files.Close(m.req.Name, true))
		}
		m.event("create")
		return nil
	}
	if m.files, m.record, err = store.Own(m.req.ID); err != nil {
		return err
	}
	before := m.record
	m.before = &before
	m.record.Pid = pid
	if !m.req.Maintain {
		m.record.State, m.record.RestartCount = string(sandbox.Creating), 0
	}
	if err := m.files.Update(m.record); err != nil {
		return errors.Join(err, m.giveBack(nil))
	}
	return nil
}

// create makes the container's directory. The name of one that is made of a bundle is what is free of its own.
func (m *monitor) create(ctx context.Context, store *container.Store) (*container.Handle, error) {
	if m.req.Bundle == nil {
		return store.Create(ctx, m.record)
	}
	var h *container.Handle
	var err error
	for _, name := range container.BundleNames(m.req.Bundle.Root, m.req.Bundle.ID) {
		m.record.Name = name
		if h, err = store.Create(ctx, m.record); !errdefs.IsAlreadyExists(err) {
			break
		}
	}
	m.req.Name = m.record.Name
	return h, err
}

// giveBack lets go of a container that could not be started. One that never ran is not kept, unless it was there before; then
// its state is as it was, with what went wrong.
func (m *monitor) giveBack(cause error) error {
	if m.before == nil {
		return m.files.Close(m.name(), true)
	}
	m.update(func(r *container.Record) {
		name := r.Name
		*r = *m.before
		r.Name, r.Pid = name, 0
		if cause != nil {
			r.ExitCode, r.Error = exitCode(cause), cause.Error()
		}
	})
	return m.files.Close(m.name(), m.req.Remove)
}

// start begins the container's first life in this monitor. After an error nothing of it is left; see giveBack.
func (m *monitor) start(ctx context.Context) (*life, error) {
	return m.firstLife(ctx, func(l *life) error { return l.begin(ctx) })
}

// firstLife makes what the monitor has for all lives, and the first of them as far as begin takes it.
func (m *monitor) firstLife(ctx context.Context, begin func(*life) error) (l *life, err error) {
	var undo cleanup.Stack
	undo.AddFunc(func() error { return m.giveBack(err) })
	defer func() {
		if err != nil {
			err = errors.Join(err, undo.Run(ctx, cleanupTimeout))
		}
	}()
	if err := m.open(ctx, &undo); err != nil {
		return nil, err
	}
	l = m.newLife(m.req.Zero)
	return l, begin(l)
}

// open makes what the monitor has for all of the container's lives: its sockets and its log.
func (m *monitor) open(ctx context.Context, undo *cleanup.Stack) (err error) {
	if m.server, err = serve(m); err != nil {
		return err
	}
	undo.AddFunc(m.server.close)
	if err := m.openAttach(undo); err != nil {
		return err
	}
	if err := m.openNetworks(ctx, undo); err != nil {
		return err
	}
	if m.output, err = logfile.Append(m.path(container.OutputLog), m.cfg.LogMaxSize); err != nil {
		return err
	}
	undo.AddFunc(m.output.Close)
	return nil
}
