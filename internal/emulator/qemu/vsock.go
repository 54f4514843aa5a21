package qemu

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"

	"github.com/runcvm/runcvm/internal/emulator/vsock"
)

// Vsock is a bound vsock device with QEMU's connection to it.
type Vsock struct {
	device *vsock.Device
	qemu   *os.File // nil once QEMU has it
}

// ListenVsock binds udsPath for the host's programs. The device's socket for QEMU is connected at once and its file removed,
// so that nothing of it is left when this process is killed.
func ListenVsock(cid uint32, udsPath string, log *slog.Logger) (_ *Vsock, err error) {
	dir, err := os.MkdirTemp("", "firecracker-qemu-")
	if err != nil {
		return nil, err
	}
	defer func() {
		if e := os.RemoveAll(dir); e != nil {
			err = errors.Join(err, e)
		}
	}()
	backend := filepath.Join(dir, "vhost")
	device, err := vsock.Listen(vsock.Config{GuestCID: cid, UDSPath: udsPath, BackendSocket: backend, Logger: log})
	if err != nil {
		return nil, err
	}
	v := &Vsock{device: device}
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: backend, Net: "unix"})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("connect to the vsock device: %w", err), device.Close())
	}
	defer conn.Close()
	if v.qemu, err = conn.File(); err != nil {
		return nil, errors.Join(err, device.Close())
	}
	return v, nil
}

// takeQEMUEnd hands over the connection that QEMU is to have; there is one.
func (v *Vsock) takeQEMUEnd() (*os.File, error) {
	if v.qemu == nil {
		return nil, errors.New("the device has served a guest already; configure it again")
	}
	f := v.qemu
	v.qemu = nil
	return f, nil
}

// Close ends the device and removes the host's socket.
func (v *Vsock) Close() error {
	if v.qemu != nil {
		_ = v.qemu.Close() // never used
	}
	return v.device.Close()
}
