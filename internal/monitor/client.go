package monitor

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/containerd/ttrpc"

	"github.com/runcvm/runcvm/internal/container"
	"github.com/runcvm/runcvm/internal/monitor/api"
)

// Client talks to the monitor of one container.
type Client struct {
	api.MonitorService
	Processes api.ProcessesClient
	rpc       *ttrpc.Client
}

// Dial connects to the monitor of a container that is alive.
func Dial(ctx context.Context, e *container.Entry) (*Client, error) {
	// By the directory's descriptor: the path itself may be longer than a Unix socket's address can be.
	dir, err := os.Open(e.RunDir)
	if err != nil {
		return nil, fmt.Errorf("reach the monitor of %s: %w", e.Name, err)
	}
	defer dir.Close()
	path := filepath.Join(fmt.Sprintf("/proc/self/fd/%d", dir.Fd()), container.MonitorSocket)
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("reach the monitor of %s: %w", e.Name, err)
	}
	rpc := ttrpc.NewClient(conn)
	return &Client{MonitorService: api.NewMonitorClient(rpc), Processes: api.NewProcessesClient(rpc), rpc: rpc}, nil
}

// Close ends the connection.
func (c *Client) Close() error { return c.rpc.Close() }
