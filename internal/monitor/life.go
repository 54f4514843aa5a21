package monitor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/runcvm/runcvm/internal/cleanup"
	"github.com/runcvm/runcvm/internal/cni"
	"github.com/runcvm/runcvm/internal/container"
	"github.com/runcvm/runcvm/internal/logfile"
	"github.com/runcvm/runcvm/internal/network"
	"github.com/runcvm/runcvm/internal/sandbox"
	"github.com/runcvm/runcvm/internal/timeline"
)

// life is one boot of the container: its disks, its sandbox, its process, until all of that has ended. A monitor has one
// after the other, as many as the restart policy and the verbs ask for. Legal order: begin, live.
type life struct {
	*monitor
	timeline  *timeline.Recorder
	source    source
	prep      prepared
	container *sandbox.Container
	// network is nil where the guest has none.
	network *network.Binding
	// attachments are the networks that its namespace is connected to.
	attachments []cni.Attachment
	// began is when the container's process ran.
	began time.Time
	// stopped says that it was ended by stop or restart; enforce writes it.
	stopped bool
}

// newLife returns a life that has not begun; zero is when it was asked for.
func (m *monitor) newLife(zero time.Time) *life {
	l := &life{monitor: m, timeline: timeline.New(zero)}
	l.source = newSource(l)
	return l
}

// begin brings the container up. After an error nothing of this life is left but what is to be kept of any: disk and logs.
func (l *life) begin(ctx context.Context) error {
	if err := l.sweepSockets(); err != nil {
		return err
	}
	if err := l.climb(ctx, l.prepare, l.boot); err != nil {
		return err
	}
	l.runs()
	return nil
}

// runs makes known that the container's process runs.
func (l *life) runs() {
	l.began = time.Now()
	l.server.container.Store(l.container)
	l.server.processes.use(l.name(), l.container, l.source.further())
	l.life.Store(l)
	l.update(func(r *container.Record) {
		r.State, r.Started = string(sandbox.Running), l.began
		r.ExitCode, r.OOMKilled, r.Error = 0, false, ""
	})
	if err := l.files.WriteTimeline(l.timeline.Timeline()); err != nil {
		l.logger.Error("timeline not written", "error", err)
	}
	l.event("start")
}

// sweepSockets removes the sockets of the life before: no VMM takes over another's.
func (l *life) sweepSockets() error {
	files, err := os.ReadDir(l.files.RunDir)
	if err != nil {
		return fmt.Errorf("read the run directory: %w", err)
	}
	for _, f := range files {
		if f.Name() == container.MonitorSocket || f.Name() == container.AttachSocket {
			continue
		}
		if err := os.Remove(filepath.Join(l.files.RunDir, f.Name())); err != nil {
			return fmt.Errorf("remove a socket of the last microVM: %w", err)
		}
	}
	return nil
}

// climb goes some steps of a start, which end early when somebody asks for it. After an error what they made is undone.
func (l *life) climb(ctx context.Context, steps ...func(context.Context, *cleanup.Stack) error) (err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var undo cleanup.Stack
	defer func() {
		if err == nil {
			undo.Release()
			return
		}
		if c := context.Cause(ctx); c != nil && !errors.Is(err, c) {
			err = fmt.Errorf("%w: %w", c, err)
		}
		err = errors.Join(err, undo.Run(ctx, cleanupTimeout))
	}()
	stop := l.abortOn(cancel)
	for _, step := range steps {
		if err = step(ctx, &undo); err != nil {
			break
		}
	}
	stop()
	if err == nil {
		// Who asked for the end when all was done already is not to be overheard.
		err = context.Cause(ctx)
	}
	return err
}

// boot boots what was prepared and runs the process.
func (l *life) boot(ctx context.Context, undo *cleanup.Stack) (err error) {
	if err := l.bindNetwork(ctx, undo); err != nil {
		return err
	}
	if err := l.source.startDisk(ctx, undo.AddFunc); err != nil {
		return err
	}
	files := l.prep.files()
	if l.network != nil {
		files.NICs, files.Network = l.network.NICs, l.network.Guest
	}
	if err := l.prep.sandbox.Boot(ctx, files); err != nil {
		return err
	}
	l.serveNetwork()
	if err := l.prep.disk.Opened(); err != nil {
		return err
	}
	if l.prep.start != nil {
		if err := l.prep.start.Opened(); err != nil {
			return err
		}
	}
	if l.container, err = l.prep.sandbox.Create(ctx, l.req.ID, l.prep.disks()); err != nil {
		return err
	}
	l.update(func(r *container.Record) {
		if r.State == string(sandbox.Creating) {
			r.State = string(sandbox.Created)
		}
		r.Kernel = l.prep.sandbox.KernelRelease()
	})
	return l.container.Start(ctx, l.streams())
}

// abortOn ends the start on a signal that asks for an end, or when the caller is gone, until the returned function is
// called.
func (l *life) abortOn(cancel context.CancelCauseFunc) (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	canceled := l.canceled()
	go func() {
		defer close(done)
		for {
			select {
			case s := <-l.signals:
				if asksForEnd(s) {
					l.cancelRestarts()
					cancel(fmt.Errorf("interrupted by %s", s))
				}
			case <-l.callerGone:
				cancel(errors.New("the caller has ended"))
				return
			case <-l.server.killAsked:
				cancel(errors.New("it was removed while it was starting"))
				return
			case <-canceled:
				cancel(errors.New("it was stopped while it was starting"))
				return
			case wish := <-l.stops:
				if wish.void() {
					continue
				}
				l.cancelRestarts()
				cancel(errors.New("it was stopped while it was starting"))
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

// streams are the container's standard files: the log, those of who is attached, and the caller's unless detached.
func (l *life) streams() sandbox.Streams {
	// A log whose disk is full must not end the container's output.
	log := logfile.NewOutput(l.output.Lossy())
	return l.attachStreams(sandbox.Streams{Stdout: log.Stream("stdout"), Stderr: log.Stream("stderr")})
}

// end gives up what this life holds. keep says that the writable disk is wanted again.
func (l *life) end(ctx context.Context, keep bool) {
	l.server.container.Store(nil)
	l.server.processes.use(l.name(), nil, further{})
	l.life.Store(nil)
	if !keep {
		l.prep.sandbox.Kill() // its disk goes too
	} else if err := l.prep.sandbox.Shutdown(ctx); err != nil {
		l.logger.Warn("the guest did not shut down in order; its disk is checked at the next start", "error", err)
	}
	err := l.prep.disk.Close()
	if l.prep.start != nil {
		err = errors.Join(err, l.prep.start.Close())
	}
	if l.network != nil {
		err = errors.Join(err, l.network.Close())
	}
	err = errors.Join(err, l.detachNetworks(ctx))
	if err != nil {
		l.tell("something is left over", err)
	}
}
