// Package vsock is the virtio-vsock device of firecracker-qemu: a vhost-user back-end that QEMU's vhost-user-vsock-device
// talks to, in front of Firecracker's host side, which is made of Unix sockets.
//
//	host to guest:  a client connects to UDSPath, writes "CONNECT <port>\n", and reads "OK <host's port>\n" when the
//	                guest has accepted; then the connection carries raw bytes
//	guest to host:  a connection to CID 2, port N becomes a connection to "<UDSPath>_<N>"
//
// It behaves as Firecracker v1.16 does, limits, time-outs and manners at close included, because programs that are tested
// on it run on Firecracker later. Where a comment says "Firecracker v1.16", the file named is below src/vmm/src/devices/virtio.
//
// Calls: Listen, then Serve once; Close at any time and from any goroutine, more than once too. Listen binds both sockets, so
// QEMU can be started as soon as it returns. Where QEMU is to inherit its end of the connection, Frontend comes in between.
//
// One goroutine does everything: it waits in epoll for QEMU's messages, the guest's notifications and the Unix sockets, moves
// data between sockets and the guest's memory without a copy in between, and sleeps without a timer when there is nothing
// to do. No socket is ever waited for, so one that stalls holds up nobody else.
package vsock

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/emulator/vsock/vhostuser"
)

// Config says what device to make.
type Config struct {
	// GuestCID is the guest's address, at least 3.
	GuestCID uint32
	// UDSPath is where host programs connect; it must not exist. At most 107 bytes, and with "_" and a port number
	// appended too for what the guest is to reach.
	UDSPath string
	// BackendSocket is the path of the Unix socket that QEMU connects to; it must not exist. Empty: there is none, and
	// Device.Frontend is QEMU's end of the connection.
	BackendSocket string
	// Logger gets what goes wrong; nil for nothing.
	Logger *slog.Logger
}

// Virtqueues (virtio 1.1, 5.10.2). The third, for events, is QEMU's own business in vhost-user-vsock.
const (
	rxQueue   = 0 // to the guest
	txQueue   = 1 // from the guest
	numQueues = 2
)

// ErrClosed is what Serve returns after Close.
var ErrClosed = errors.New("vsock device closed")

// Device is a vsock device. Its methods are safe for concurrent use.
type Device struct {
	cfg  Config
	log  *slog.Logger
	poll *poller
	wake int // eventfd: Close, the end of Serve's context, a restart, or a finished connect
	mux  *muxer
	host *listener // UDSPath
	qemu *listener // BackendSocket, until QEMU has connected
	end  *os.File  // QEMU's end, until Frontend has handed it over

	vhostConn *vhostuser.Conn
	vhost     *vhostuser.Backend
	kickTok   [numQueues]token
	active    bool  // both rings run
	broken    error // why the device has stopped, nil while it works
	gone      bool  // QEMU has disconnected
	chains    [maxBatchChains]vhostuser.Chain
	more      bool // there is more to transfer without waiting
	faults    int  // malformed packets of the guest that were logged

	closing  sync.Once
	closeErr error
	mu       sync.Mutex
	restart  bool // the guest has restarted
	closed   bool
	serving  chan struct{} // closed when Serve has returned; nil before Serve
}

// Listen binds UDSPath and BackendSocket. It fails when one of them exists, as Firecracker does.
func Listen(cfg Config) (*Device, error) {
	if cfg.GuestCID < 3 {
		return nil, fmt.Errorf("guest CID %d: 0 to 2 are reserved, use 3 or more", cfg.GuestCID)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	d := &Device{cfg: cfg, log: cfg.Logger, wake: -1}
	if err := d.listen(); err != nil {
		return nil, errors.Join(err, d.release())
	}
	return d, nil
}

func (d *Device) listen() error {
	var err error
	if d.poll, err = newPoller(); err != nil {
		return err
	}
	if d.wake, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC); err != nil {
		return fmt.Errorf("make an eventfd: %w", err)
	}
	if _, err := d.poll.watch(d.wake, unix.EPOLLIN, d.onWake); err != nil {
		return err
	}
	if d.host, err = listenUnix(d.cfg.UDSPath); err != nil {
		return err
	}
	d.mux = newMuxer(d.cfg, d.log, d.poll, d.host.fd, d.wakeUp)
	if d.cfg.BackendSocket == "" {
		return d.connect()
	}
	if d.qemu, err = listenUnix(d.cfg.BackendSocket); err != nil {
		return err
	}
	_, err = d.poll.watch(d.qemu.fd, unix.EPOLLIN, d.onQEMU)
	return err
}

// connect makes the connection to QEMU itself.
func (d *Device) connect() error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make a socket pair for QEMU: %w", err)
	}
	d.end = os.NewFile(uintptr(pair[1]), "vhost-user")
	if err := unix.SetNonblock(pair[0], true); err != nil {
		return errors.Join(err, unix.Close(pair[0]))
	}
	return d.attach(pair[0])
}

// Frontend hands over QEMU's end of the connection, where Config.BackendSocket is empty: QEMU inherits it as -chardev
// socket,fd=N. The caller closes it once QEMU has started, so that QEMU's end is seen. There is one: later calls return nil.
func (d *Device) Frontend() *os.File {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.end
	d.end = nil
	return f
}

// Serve answers QEMU and carries connections until QEMU disconnects (nil, or why the device had stopped working before), ctx is
// done (its error), or Close is called (ErrClosed). It may be called once.
func (d *Device) Serve(ctx context.Context) (err error) {
	d.mu.Lock()
	if d.closed || d.serving != nil {
		d.mu.Unlock()
		return ErrClosed
	}
	d.serving = make(chan struct{})
	defer close(d.serving)
	d.mu.Unlock()

	defer context.AfterFunc(ctx, d.wakeUp)()
	// The guest's memory is a file of QEMU's. Where that is cut short, touching it is a fault, which must not end the process.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			fault, ok := p.(interface{ Addr() uintptr })
			if !ok {
				panic(p)
			}
			err = fmt.Errorf("vsock device stopped: the guest's memory at %#x has gone: %v", fault.Addr(), p)
		}
	}()
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		if d.isClosed() {
			return ErrClosed
		}
		if d.gone {
			return d.broken
		}
		if err := d.poll.wait(d.busy()); err != nil {
			return err
		}
		if err := d.transfer(); err != nil {
			d.fail(err)
		}
	}
}

// Restarted says that another guest runs now, which knows of no connection: all of them are closed.
func (d *Device) Restarted() {
	d.mu.Lock()
	d.restart = true
	d.mu.Unlock()
	d.wakeUp()
}

// Close ends Serve, waits for it, closes every connection and removes both sockets.
func (d *Device) Close() error {
	d.closing.Do(func() {
		d.mu.Lock()
		d.closed = true
		serving := d.serving
		d.mu.Unlock()
		if serving != nil {
			d.wakeUp()
			<-serving
		}
		d.closeErr = d.release()
	})
	return d.closeErr
}

func (d *Device) isClosed() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.closed
}

func (d *Device) release() error {
	var errs []error
	if d.mux != nil {
		d.mux.close()
	}
	if d.vhost != nil {
		d.vhost.Close()
		errs = append(errs, d.vhostConn.Close())
	}
	errs = append(errs, d.host.close(), d.qemu.close())
	if f := d.Frontend(); f != nil {
		errs = append(errs, f.Close())
	}
	if d.poll != nil {
		errs = append(errs, d.poll.close())
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.wake >= 0 {
		errs = append(errs, unix.Close(d.wake))
		d.wake = -1 // the end of Serve's context may still come
	}
	return errors.Join(errs...)
}

// wakeUp ends the wait of the goroutine in Serve. It may be called from any goroutine.
func (d *Device) wakeUp() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.wake < 0 {
		return
	}
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	_, _ = unix.Write(d.wake, one[:]) // fails only when the counter is full, which wakes as well
}

func (d *Device) onWake(uint32) error {
	var b [8]byte
	_, _ = unix.Read(d.wake, b[:]) // only resets the counter
	d.mu.Lock()
	restarted := d.restart
	d.restart = false
	d.mu.Unlock()
	if restarted {
		d.mux.closeAll()
	}
	d.mux.finishConnects()
	return nil
}

// onQEMU takes the one connection of the front-end, and ends the listening for more.
func (d *Device) onQEMU(uint32) error {
	fd, err := accept(d.qemu.fd)
	if err != nil {
		if transient(err) {
			return nil
		}
		return fmt.Errorf("accept QEMU's connection: %w", err)
	}
	if err := d.qemu.close(); err != nil {
		d.log.Warn("remove QEMU's socket", "error", err)
	}
	return d.attach(fd)
}

// attach takes a connected socket of the front-end's.
func (d *Device) attach(fd int) error {
	d.vhostConn = vhostuser.NewConn(fd)
	// Firecracker v1.16, vsock/device.rs: read_config: guest_cid, a little-endian 64-bit number, is all there is.
	config := binary.LittleEndian.AppendUint64(nil, uint64(d.cfg.GuestCID))
	d.vhost = vhostuser.NewBackend(d.vhostConn, d, numQueues, vhostuser.FeatureVersion1|vhostuser.FeatureEventIdx, config)
	_, err := d.poll.watch(fd, unix.EPOLLIN, d.onMessage)
	return err
}
