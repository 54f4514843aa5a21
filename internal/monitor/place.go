package monitor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

// Place is where the monitor of a bundle's container runs on the host, beside the network namespace of the request. It gets the caller's
// three standard files, or a terminal.
type Place struct {
	// Terminal is the slave of the container's pseudoterminal. It becomes the monitor's controlling terminal, so that its changes of
	// size come as SIGWINCH and its hangup as SIGHUP.
	Terminal *os.File
	// Started is called with the monitor's pid before the monitor does anything, and may add to its request.
	Started func(pid int, req *Request) error
}

// SpawnBundle is Spawn for a container that is made of a bundle. It returns when the microVM is ready to boot, with the monitor
// waiting for Settle; until then the monitor ends with this process.
func SpawnBundle(ctx context.Context, req Request, p Place) (*Spawned, error) {
	return spawn(ctx, req, &p)
}

// prepare gives the monitor's process its place.
func (p *Place) prepare(cmd *exec.Cmd, req Request) {
	if p == nil {
		return
	}
	if p.Terminal != nil {
		cmd.Stdin, cmd.Stdout, cmd.Stderr = p.Terminal, p.Terminal, p.Terminal
		cmd.SysProcAttr.Setctty, cmd.SysProcAttr.Ctty = true, 0
	}
	if req.Namespace == "" {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWNET
	}
}

func (p *Place) started(pid int, req *Request) error {
	if p == nil || p.Started == nil {
		return nil
	}
	return p.Started(pid, req)
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
