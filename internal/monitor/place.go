package monitor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// Place is where the monitor of a bundle's container runs on the host. It gets the caller's three standard files, or a terminal.
type Place struct {
	// NetworkNamespace is a file of the network namespace that it joins; empty: it gets a new one.
	NetworkNamespace string
	// Terminal is the slave of the container's pseudoterminal. It becomes the monitor's controlling terminal, so that its changes of
	// size come as SIGWINCH and its hangup as SIGHUP.
	Terminal *os.File
}

// SpawnBundle is Spawn for a container that is made of a bundle. It returns when the microVM is ready to boot, with the monitor
// waiting for Settle; until then the monitor ends with this process.
func SpawnBundle(ctx context.Context, req Request, p Place) (*Spawned, error) {
	return spawn(ctx, req, &p)
}

// start starts a monitor in its place by begin, which must fork on the calling thread.
func (p *Place) start(cmd *exec.Cmd, begin func() error) error {
	if p == nil {
		return begin()
	}
	if p.Terminal != nil {
		cmd.Stdin, cmd.Stdout, cmd.Stderr = p.Terminal, p.Terminal, p.Terminal
		cmd.SysProcAttr.Setctty, cmd.SysProcAttr.Ctty = true, 0
	}
	if p.NetworkNamespace == "" {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWNET
		return begin()
	}
	return InNetworkNamespace(p.NetworkNamespace, begin)
}

// InNetworkNamespace calls f on a thread that is in the network namespace of a file. What f starts on that thread is in it, too.
func InNetworkNamespace(path string, f func() error) error {
	ns, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("the container's network namespace: %w", err)
	}
	defer ns.Close()
	done := make(chan error, 1)
	go func() {
		// Never unlocked: the thread ends with the goroutine, and nobody else gets to be in that namespace.
		runtime.LockOSThread()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("join the network namespace %s: %w", path, err)
			return
		}
		done <- f()
	}()
	return <-done
}

// Settle tells the monitor that the container is created: the caller's part of that is done, and the caller may go.
func (s *Spawned) Settle() error {
	if err := s.Detach(); err != nil {
		return errors.Join(fmt.Errorf("tell the monitor that the container is created: %w", err), s.Abort())
	}
	var st status
	if err := s.status.Decode(&st); err != nil {
		return errors.Join(fmt.Errorf("the monitor ended before the container was created: %w", err), s.Abort())
	}
	if st.Error != "" {
		return errors.Join(&StartError{Message: st.Error, Code: st.Code}, s.Abort())
	}
	return nil
}

// Abort ends a monitor that is not settled, and returns when nothing is left of the container.
func (s *Spawned) Abort() error {
	s.lifeline.Close()
	if err := s.cmd.Wait(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		return fmt.Errorf("wait for the monitor: %w", err)
	}
	return nil
}

// settled tells the caller of a creation that it may go.
func (m *monitor) settled(err error) {
	st := status{}
	if err != nil {
		st.Error, st.Code = err.Error(), exitCode(err)
	}
	_ = json.NewEncoder(m.status).Encode(st) // a caller that is gone needs no word
	m.status.Close()
}
