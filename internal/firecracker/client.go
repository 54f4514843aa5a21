// Package firecracker drives a VMM that speaks Firecracker's API: Firecracker itself or firecracker-qemu.
//
// Start runs the process, then the Client's Put calls configure it, InstanceStart boots it, and Dial reaches the guest by
// vsock. After InstanceStart only the calls that say so are legal. Wait and Kill are legal at any time.
package firecracker

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"
)

// Client is Firecracker's HTTP API on a Unix socket, as its swagger file (src/firecracker/swagger/firecracker.yaml) has it,
// for Firecracker 1.13.1 and later. It may be used by several goroutines.
type Client struct {
	http *http.Client
}

// maxAnswer bounds an answer's body, in bytes. The longest one of Firecracker, GET /vm/config, is some KiB.
const maxAnswer = 1 << 20

const (
	// maxHeader bounds an answer's header, in bytes; Firecracker's has under 200.
	maxHeader = 16 << 10
	// maxFault bounds what an error says of the VMM's own words, in bytes.
	maxFault = 4 << 10
)

// requestTimeout bounds one request: the slowest, InstanceStart, takes under 1 s on Firecracker and some seconds on a
// loaded machine under emulation.
const requestTimeout = 30 * time.Second

// NewClient returns a client for the API socket at path. Nothing is dialled before the first request.
func NewClient(path string) *Client {
	return &Client{http: &http.Client{
		Timeout: requestTimeout,
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "unix", path)
			},
			DisableCompression:     true,
			MaxIdleConns:           1,
			MaxResponseHeaderBytes: maxHeader,
		},
	}}
}

// Close drops the idle connection.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Fault is an answer in which the VMM refuses a request.
type Fault struct {
	Method, Path string
	Status       int
	Message      string // fault_message
}

func (f *Fault) Error() string {
	return fmt.Sprintf("%s %s: the VMM answered %d: %s", f.Method, f.Path, f.Status, f.Message)
}

// Version is what the VMM says of itself.
type Version struct {
	// Firecracker is the version of the API, as in "1.16.1".
	Firecracker string `json:"firecracker_version"`
}

// Version asks GET /version. Legal at any time.
func (c *Client) Version(ctx context.Context) (Version, error) {
	var v Version
	return v, c.do(ctx, http.MethodGet, "/version", nil, &v)
}

// MachineConfig is the body of PUT /machine-config.
type MachineConfig struct {
	VCPUCount  int   `json:"vcpu_count"`
	MemSizeMiB int64 `json:"mem_size_mib"`
}

// PutMachineConfig sets the size of the guest.
func (c *Client) PutMachineConfig(ctx context.Context, m MachineConfig) error {
	return c.put(ctx, "/machine-config", m)
}

// BootSource is the body of PUT /boot-source. Paths are the VMM's.
type BootSource struct {
	KernelImagePath string `json:"kernel_image_path"`
	InitrdPath      string `json:"initrd_path,omitempty"`
	BootArgs        string `json:"boot_args,omitempty"`
}

// PutBootSource sets kernel, initramfs and command line.
func (c *Client) PutBootSource(ctx context.Context, b BootSource) error {
	return c.put(ctx, "/boot-source", b)
}

// Drive is the body of PUT /drives/{drive_id}. Firecracker wants ids of letters, digits and underscores.
type Drive struct {
	ID           string `json:"drive_id"`
	PathOnHost   string `json:"path_on_host"`
	IsRootDevice bool   `json:"is_root_device"`
	IsReadOnly   bool   `json:"is_read_only"`
	CacheType    string `json:"cache_type,omitempty"` // Unsafe (the default) or Writeback
}

// PutDrive attaches a disk.
func (c *Client) PutDrive(ctx context.Context, d Drive) error {
	return c.put(ctx, "/drives/"+url.PathEscape(d.ID), d)
}

// NetworkInterface is the body of PUT /network-interfaces/{iface_id}. Ids are of letters, digits and underscores.
type NetworkInterface struct {
	ID string `json:"iface_id"`
	// HostDevName is a TAP in the VMM's network namespace.
	HostDevName string `json:"host_dev_name"`
	GuestMAC    string `json:"guest_mac,omitempty"`
}

// PutNetworkInterface gives the guest a network interface. It opens the TAP, and is legal before the boot only.
func (c *Client) PutNetworkInterface(ctx context.Context, n NetworkInterface) error {
	return c.put(ctx, "/network-interfaces/"+url.PathEscape(n.ID), n)
}

// Vsock is the body of PUT /vsock.
type Vsock struct {
	GuestCID uint32 `json:"guest_cid"`
	UDSPath  string `json:"uds_path"`
}

// PutVsock gives the guest its vsock device.
func (c *Client) PutVsock(ctx context.Context, v Vsock) error { return c.put(ctx, "/vsock", v) }

// PutEntropy gives the guest a virtio-rng device.
func (c *Client) PutEntropy(ctx context.Context) error {
	return c.put(ctx, "/entropy", struct{}{})
}

// InstanceStart boots the guest. It is legal once.
func (c *Client) InstanceStart(ctx context.Context) error {
	return c.put(ctx, "/actions", map[string]string{"action_type": "InstanceStart"})
}

func (c *Client) put(ctx context.Context, path string, body any) error {
	return c.do(ctx, http.MethodPut, path, body, nil)
}

func (c *Client) do(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("%s %s: %w", method, path, err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://vmm"+path, body)
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("ask the VMM: %w", err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("%s %s: read the VMM's answer: %w", method, path, err)
	}
	if resp.StatusCode >= 300 {
		return &Fault{Method: method, Path: path, Status: resp.StatusCode, Message: faultMessage(answer)}
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("%s %s: the VMM's answer: %w", method, path, err)
	}
	return nil
}

func faultMessage(answer []byte) string {
	var f struct {
		FaultMessage string `json:"fault_message"`
	}
	if err := json.Unmarshal(answer, &f); err != nil || f.FaultMessage == "" {
		f.FaultMessage = string(answer)
	}
	return f.FaultMessage[:min(len(f.FaultMessage), maxFault)]
}
