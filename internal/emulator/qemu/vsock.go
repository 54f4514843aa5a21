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
	cid     uint32
	udsPath string
	log     *slog.Logger
	device  *vsock.Device
	qemu    *os.File // nil once QEMU has it
}

// ListenVsock binds udsPath for the host's programs. The device's socket for QEMU is connected at once and its file removed,
// so that nothing of it is left when this process is killed.
func ListenVsock(cid uint32, udsPath string, log *slog.Logger) (*Vsock, error) {
	v := &Vsock{cid: cid, udsPath: udsPath, log: log}
	if err := v.listen(); err != nil {
		return nil, err
	}
	return v, nil
}

func (v *Vsock) listen() (err error) {
	dir, err := os.MkdirTemp("", "firecracker-qemu-")
	if err != nil {
		return err
	}
	defer func() {
		if e := os.RemoveAll(dir); e != nil {
			err = errors.Join(err, e)
		}
	}()
	backend := filepath.Join(dir, "vhost")
	device, err := vsock.Listen(vsock.Config{GuestCID: v.cid, UDSPath: v.udsPath, BackendSocket: backend, Logger: v.log})
	if err != nil {
		return err
	}
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: backend, Net: "unix"})
	if err != nil {
		return errors.Join(fmt.Errorf("connect to the vsock device: %w", err), device.Close())
	}
	defer func() { _ = conn.Close() }() // QEMU gets a copy
	if v.qemu, err = conn.File(); err != nil {
		return errors.Join(err, device.Close())
	}
	v.device = device
	return nil
}

// renew makes the device anew after a start of QEMU that has failed.
func (v *Vsock) renew() error {
	if err := v.Close(); err != nil {
		return err
	}
	return v.listen()
}

// takeQEMUEnd hands over the connection that QEMU is to have; there is one.
func (v *Vsock) takeQEMUEnd() (*os.File, error) {
	if v.qemu == nil {
		return nil, errors.New("the device has served a guest already")
	}
	f := v.qemu
	v.qemu = nil
	return f, nil
}

// Close ends the device and removes the host's socket.
func (v *Vsock) Close() error {
	if v.qemu != nil {
		_ = v.qemu.Close() // never used
		v.qemu = nil
	}
	return v.device.Close()
}
