package ocicli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/creack/pty"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/terminal"
)

// checkConsole says whether the terminal that a process asks for goes with the flags. The texts are runc's.
func checkConsole(p *specs.Process, f *createFlags) error {
	switch {
	case f.detach && p.Terminal && f.consoleSocket == "":
		return errors.New("cannot allocate tty if runcvm will detach without setting console socket")
	case (!f.detach || !p.Terminal) && f.consoleSocket != "":
		return errors.New("cannot use console socket if runcvm will not detach or allocate tty")
	}
	return nil
}

// openConsole makes a pseudoterminal of which the guest's is the continuation: it changes nothing of what goes through.
func openConsole(size *specs.Box) (master, slave *os.File, err error) {
	if master, slave, err = pty.Open(); err != nil {
		return nil, nil, fmt.Errorf("make a pseudoterminal: %w", err)
	}
	_, err = terminal.Raw(slave)
	if err == nil && size != nil && size.Height != 0 {
		err = pty.Setsize(master, &pty.Winsize{Rows: uint16(size.Height), Cols: uint16(size.Width)})
	}
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("set the pseudoterminal up: %w", err), master.Close(), slave.Close())
	}
	return master, slave, nil
}

// sendFile sends an open file to a Unix socket, with its name.
func sendFile(ctx context.Context, socket string, f *os.File) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		return errors.New("no Unix socket")
	}
	_, _, err = unixConn.WriteMsgUnix([]byte(f.Name()), unix.UnixRights(int(f.Fd())), nil)
	return err
}

// sendPidfd sends a pidfd to a Unix socket.
func sendPidfd(ctx context.Context, socket string, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	defer f.Close()
	return sendFile(ctx, socket, f)
}
