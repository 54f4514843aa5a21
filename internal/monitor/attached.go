package monitor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"

	"github.com/runcvm/runcvm/internal/cleanup"
	"github.com/runcvm/runcvm/internal/container"
	"github.com/runcvm/runcvm/internal/monitor/attach"
	"github.com/runcvm/runcvm/internal/sandbox"
)

// attachFD is the connection of a caller who is attached from the start; see Request.Attached.
const attachFD = 5

// detachByte, on the request's pipe, says that the caller leaves the container running.
const detachByte = 'D'

// watchCaller closes gone when the caller ends, unless it has detached before: then it closes detached.
func watchCaller(pipe io.Reader, gone, detached chan<- struct{}) {
	b := make([]byte, 64)
	for {
		n, err := pipe.Read(b)
		if bytes.IndexByte(b[:n], detachByte) >= 0 {
			close(detached)
			return
		}
		if err != nil {
			close(gone)
			return
		}
	}
}

// openAttach lets people attach to the container: who is attached from the start, and who comes to the socket.
func (m *monitor) openAttach(undo *cleanup.Stack) error {
	m.hub = attach.NewHub(attach.Options{
		TTY: m.req.Options.Terminal, Stdin: m.req.Stdin, Log: m.logger, Ready: m.server.processes.attachable,
	})
	if m.req.Attached {
		f := os.NewFile(attachFD, "attached")
		conn, err := net.FileConn(f)
		if err = errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("take the caller's connection: %w", err)
		}
		if err := m.hub.AddFirst(conn); err != nil {
			return fmt.Errorf("take the caller's connection: %w", err)
		}
	}
	l, err := net.Listen("unix", container.AttachSocket)
	if err != nil {
		return fmt.Errorf("listen on the socket for those who attach: %w", err)
	}
	m.attachSocket = l
	undo.AddFunc(l.Close)
	go m.hub.Serve(l)
	return nil
}

// attachable says why nobody can attach now.
func (p *processes) attachable() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.container == nil:
		return stateError("you cannot attach to a stopped container, start it first")
	case p.container.State() == sandbox.Paused:
		return stateError("you cannot attach to a paused container, unpause it first")
	}
	return nil
}

// attachStreams adds those who are attached to the container's streams, which go to the log alone.
func (l *life) attachStreams(s sandbox.Streams) sandbox.Streams {
	caller := !l.req.Detach && !l.req.Attached
	if caller {
		s.Stdout, s.Stderr = io.MultiWriter(s.Stdout, os.Stdout), io.MultiWriter(s.Stderr, os.Stderr)
	}
	s.Stdout, s.Stderr = io.MultiWriter(s.Stdout, l.hub.Stdout()), io.MultiWriter(s.Stderr, l.hub.Stderr())
	if l.req.Options.Terminal {
		s.Stderr, s.Size = nil, l.terminalSize()
	}
	switch {
	case l.req.Stdin && caller:
		s.Stdin = l.hub.Input(os.Stdin)
	case l.req.Stdin:
		s.Stdin = l.hub.Input(nil)
	}
	return s
}

// tellAttached tells those who are attached of the container's end, once it is written down.
func (m *monitor) tellAttached(before, after container.Record) {
	runs := func(r container.Record) bool {
		return r.State == string(sandbox.Running) || r.State == string(sandbox.Paused)
	}
	if m.hub != nil && runs(before) && !runs(after) {
		m.hub.End(attach.Exit{Code: after.ExitCode, Text: after.Error})
	}
}

// Attach connects to the container's standard files. An error is the monitor's refusal, too.
func Attach(ctx context.Context, e *container.Entry) (*attach.Client, error) {
	conn, err := dial(ctx, e, container.AttachSocket)
	if err != nil {
		return nil, err
	}
	return attach.Open(conn)
}

// dial connects to a socket in the container's run directory.
func dial(ctx context.Context, e *container.Entry, socket string) (net.Conn, error) {
	// By the directory's descriptor: the path itself may be longer than a Unix socket's address can be.
	dir, err := os.Open(e.RunDir)
	if err != nil {
		return nil, fmt.Errorf("reach the monitor of %s: %w", e.Name, err)
	}
	defer dir.Close()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(fmt.Sprintf("/proc/self/fd/%d", dir.Fd()), socket))
	if err != nil {
		return nil, fmt.Errorf("reach the monitor of %s: %w", e.Name, err)
	}
	return conn, nil
}
