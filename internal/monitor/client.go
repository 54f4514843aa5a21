package monitor

import (
	"context"

	"github.com/containerd/ttrpc"

	"github.com/runcvm/runcvm/internal/container"
	"github.com/runcvm/runcvm/internal/monitor/api"
)

// Client talks to the monitor of one container.
type Client struct {
	api.MonitorService
	api.CopyService
	Processes api.ProcessesClient
	Control   api.ControlService
	Bundle    api.BundleService
	rpc       *ttrpc.Client
}

// Dial connects to the monitor of a container that is alive.
func Dial(ctx context.Context, e *container.Entry) (*Client, error) {
	conn, err := dial(ctx, e, container.MonitorSocket)
	if err != nil {
		return nil, err
	}
	rpc := ttrpc.NewClient(conn)
	return &Client{
		MonitorService: api.NewMonitorClient(rpc), CopyService: api.NewCopyClient(rpc), Processes: api.NewProcessesClient(rpc),
		Control: api.NewControlClient(rpc), Bundle: api.NewBundleClient(rpc), rpc: rpc,
	}, nil
}

// Close ends the connection.
func (c *Client) Close() error { return c.rpc.Close() }
