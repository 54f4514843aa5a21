package hostile

import (
	"bufio"
	"fmt"
	"io"
	"net"

	"github.com/runcvm/runcvm/internal/guestapi"
)

// Connect answers the words that Firecracker takes on its vsock's socket, and is the agent behind it then.
func (m Mode) Connect(c net.Conn) {
	b := bufio.NewReaderSize(c, 64)
	line, err := b.ReadString('\n')
	if err == nil {
		_, err = io.WriteString(c, "OK 1073741824\n")
	}
	if err != nil {
		c.Close()
		return
	}
	behave := m.Stream
	if line == fmt.Sprintf("CONNECT %d\n", guestapi.PortAgent) {
		behave = m.Agent
	}
	behave(&buffered{c, b})
}

// buffered reads first what was read too much.
type buffered struct {
	net.Conn
	r io.Reader
}

func (b *buffered) Read(p []byte) (int, error) { return b.r.Read(p) }
