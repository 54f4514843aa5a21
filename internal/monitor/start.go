package monitor

import (
	"context"
	"errors"
	"time"

	"github.com/runcvm/runcvm/internal/cleanup"
	"github.com/runcvm/runcvm/internal/container"
	"github.com/runcvm/runcvm/internal/logfile"
)

// cleanupTimeout bounds the end of a container that could not be started.
const cleanupTimeout = 30 * time.Second

// start begins the container's first life in this monitor. After an error nothing of it is left: a container that never
// ran is not kept.
func (m *monitor) start(ctx context.Context) (l *life, err error) {
	var undo cleanup.Stack
	undo.AddFunc(func() error { return m.files.Close(m.req.Name, true) })
	defer func() {
		if err != nil {
			err = errors.Join(err, undo.Run(ctx, cleanupTimeout))
		}
	}()
	if m.server, err = serve(m.logger); err != nil {
		return nil, err
	}
	undo.AddFunc(m.server.close)
	if err := m.openAttach(&undo); err != nil {
		return nil, err
	}
	if m.output, err = logfile.Create(m.path(container.OutputLog), m.cfg.LogMaxSize); err != nil {
		return nil, err
	}
	undo.AddFunc(m.output.Close)
	l = m.newLife(m.req.Zero)
	return l, l.begin(ctx)
}
