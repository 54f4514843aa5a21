package monitor

import (
	"context"
	"os"

	"github.com/runcvm/runcvm/internal/sandbox"
	"github.com/runcvm/runcvm/internal/terminal"
)

// ownsTerminal says whether the monitor's standard files are the terminal whose other end is the container's: a bundle's.
func (m *monitor) ownsTerminal() bool { return m.req.Bundle != nil && m.req.Options.Terminal }

// terminalSize is the size that the container's terminal begins with.
func (m *monitor) terminalSize() sandbox.Size {
	if !m.ownsTerminal() {
		return m.req.Size
	}
	if rows, columns := terminal.Size(os.Stdin); rows != 0 {
		return sandbox.Size{Rows: rows, Columns: columns}
	}
	return m.req.Size
}

// resizeTerminal gives the guest's terminal the size of the host's.
func (l *life) resizeTerminal(ctx context.Context) {
	size := l.terminalSize()
	if size == (sandbox.Size{}) {
		return
	}
	if err := l.container.Resize(ctx, size); err != nil && ctx.Err() == nil {
		l.logger.Warn("the terminal's size is not handed on", "error", err)
	}
}
