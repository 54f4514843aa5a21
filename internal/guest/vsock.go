package guest

import (
	"errors"
	"log/slog"
	"net"
	"time"

	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/guestapi"
)

// ListenVsock opens a vsock port for connections from the host. It may be called before the kernel knows the guest's CID.
// Connections from anybody else, a process in a container for one, are closed without a byte.
func ListenVsock(port uint32) (net.Listener, error) {
	l, err := vsock.ListenContextID(unix.VMADDR_CID_ANY, port, nil)
	if err != nil {
		return nil, err
	}
	return hostOnly{l}, nil
}

// acceptPause keeps an error that lasts from using up the guest's processor.
const acceptPause = 10 * time.Millisecond

// hostOnly passes on only connections from the host.
type hostOnly struct{ net.Listener }

func (l hostOnly) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil, err
		}
		if err != nil {
			// Out of descriptors or of memory, or the peer is gone again: no reason for PID 1 to stop listening.
			slog.Warn("a connection was not accepted", "error", err)
			time.Sleep(acceptPause)
			continue
		}
		if a, ok := c.RemoteAddr().(*vsock.Addr); ok && a.ContextID == guestapi.HostCID {
			return c, nil
		}
		slog.Warn("refused a connection that is not the host's", "peer", c.RemoteAddr().String())
		c.Close()
	}
}
