// Package terminal is the user's end of a container's terminal: raw mode, the window's size, the detach keys.
//
// Raw first; Restore ends it, on every way out. The rest is legal at any time.
package terminal

import (
	"fmt"
	"os"

	"github.com/moby/term"
	"golang.org/x/sys/unix"
)

// ErrNotATerminal has Docker's text.
var ErrNotATerminal = fmt.Errorf("the input device is not a TTY")

// Is says whether a file is a terminal.
func Is(f *os.File) bool { return term.IsTerminal(f.Fd()) }

// Size is the window's in characters; 0 by 0 where the file is no terminal.
func Size(f *os.File) (rows, columns uint16) {
	ws, err := term.GetWinsize(f.Fd())
	if err != nil {
		return 0, 0
	}
	return ws.Height, ws.Width
}

// Raw switches a terminal to raw mode: keys are handed on as they are, signals' keys too.
func Raw(f *os.File) (restore func(), err error) {
	// By a descriptor of its own: who reads the file may have closed it before the mode is restored.
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("set the terminal to raw mode: %w", err)
	}
	state, err := term.SetRawTerminal(uintptr(fd))
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("set the terminal to raw mode: %w", err)
	}
	return func() {
		_ = term.RestoreTerminal(uintptr(fd), state) // fails only when the terminal is gone
		unix.Close(fd)
	}, nil
}
