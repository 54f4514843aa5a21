package monitor

import (
	"context"

	"github.com/runcvm/runcvm/internal/cleanup"
	"github.com/runcvm/runcvm/internal/network"
)

// bindNetwork gives the guest the interfaces of the monitor's network namespace, where the container has one of its own.
func (l *life) bindNetwork(ctx context.Context, undo *cleanup.Stack) (err error) {
	if l.req.Maintain || !l.req.networked() {
		return nil
	}
	defer l.timeline.Phase("bind-network")()
	if l.network, err = network.Bind(ctx, l.publicID()); err != nil {
		return err
	}
	undo.AddFunc(l.network.Close)
	for _, note := range l.network.Notes {
		l.logger.Warn(note)
	}
	return nil
}

// serveNetwork does for a guest that has booted what needs the namespace's own stack.
func (l *life) serveNetwork() {
	if l.network == nil {
		return
	}
	for _, note := range l.network.Serve(l.prep.sandbox, l.logger) {
		l.logger.Warn(note)
	}
}
