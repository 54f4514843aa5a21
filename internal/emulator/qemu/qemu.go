package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/runcvm/runcvm/internal/emulator/api"
)

// Accelerators.
const (
	accelTCG  = "tcg"
	accelKVM  = "kvm"
	accelAuto = "auto"
)

const (
	// startTimeout bounds QEMU's own start, until it answers on its control socket.
	startTimeout = 30 * time.Second
	// flushTimeout bounds what QEMU may still do at its end, as for its disks after the guest has rebooted.
	flushTimeout = 5 * time.Second
)

// Launcher starts QEMU.
type Launcher struct {
	Binary string    // path of qemu-system-x86_64
	Accel  string    // "tcg", "kvm", or "auto": KVM where a guest runs on it at a processor's speed
	Stdin  io.Reader // input of the serial console when it is on Stdout; nil for none
	Stdout io.Writer // the serial console, unless the API has named a file
	Log    *slog.Logger
	// Ended is called once when the guest has ended and its console's last byte is out, with [VM.Err].
	Ended func(error)

	meter       tscMeter
	accelerator func() string
}

// New makes a launcher and begins to measure what booting needs to know of the host.
func New(l Launcher) *Launcher {
	l.meter = newTSCMeter()
	l.accelerator = chooseAccelerator(l.Accel, l.Log)
	return &l
}

// VM is a guest in a running QEMU.
type VM struct {
	spec api.Spec
	log  *slog.Logger
	proc *process
	qmp  *qmp

	done    chan struct{}
	err     error // valid once done is closed
	stopped chan struct{}
	stop    sync.Once
	reset   chan struct{}
	resetIt sync.Once
	console chan struct{} // closed when the console's last byte is out
	closing chan struct{}
	close   sync.Once
	lost    chan error // that the guest has no timer, and gets none
	paused  atomic.Bool

	// The API asks for one thing at a time, so these need no lock.
	node  []string // the node of each drive's file
	files int      // how many files have been put behind drives since boot
}

// Launch starts QEMU with spec and returns when it runs the guest.
func (l *Launcher) Launch(ctx context.Context, spec api.Spec) (api.Machine, error) {
	accel := l.accelerator()
	if accel == accelTCG {
		// Without its rate a guest under TCG has no timer that works: there is no PIT, and no hypervisor's clock. And on a
		// busy host its watchdog would find the TSC at fault and fall back to jiffies.
		spec.Cmdline = fmt.Sprintf("tsc=reliable tsc_early_khz=%d %s", l.meter.kHz(), spec.Cmdline)
		if len(spec.Cmdline) >= api.MaxCmdline {
			return nil, fmt.Errorf("the kernel command line has no room for tsc_early_khz, which emulation needs: %d bytes of %d",
				len(spec.Cmdline), api.MaxCmdline-1)
		}
	}
	vm := &VM{
		spec: spec, log: l.Log, done: make(chan struct{}), stopped: make(chan struct{}), reset: make(chan struct{}),
		console: make(chan struct{}), closing: make(chan struct{}), lost: make(chan error, 1),
	}
	for k := range spec.Drives {
		vm.node = append(vm.node, firstFile(k))
	}
	if err := vm.start(ctx, l, accel); err != nil {
		close(vm.done)
		if vsock, ok := spec.Vsock.(*Vsock); ok {
			err = errors.Join(err, vsock.renew()) // so that a start can be tried again
		}
		return nil, err
	}
	return vm, nil
}

func (vm *VM) start(ctx context.Context, l *Launcher, accel string) (err error) {
	var theirs []*os.File
	defer func() {
		for _, f := range theirs {
			_ = f.Close() // QEMU has its own copy
		}
	}()
	control, controlConn, err := socketPair("control socket")
	if err != nil {
		return err
	}
	theirs = append(theirs, control)
	serial, serialConn, err := socketPair("serial console")
	if err != nil {
		return errors.Join(err, controlConn.Close())
	}
	theirs = append(theirs, serial)
	abandon := func(err error) error { return errors.Join(err, controlConn.Close(), serialConn.Close()) }
	var vsock *os.File
	if vm.spec.Vsock != nil {
		device := vm.spec.Vsock.(*Vsock)
		if vsock, err = device.takeQEMUEnd(); err != nil {
			return abandon(fmt.Errorf("vsock: %w", err))
		}
		theirs = append(theirs, vsock)
		go vm.serveVsock(device)
	}
	c, err := arguments(&vm.spec, accel, control, serial, vsock)
	if err != nil {
		return abandon(err)
	}
	vm.log.Debug("start QEMU", "binary", l.Binary, "args", fmt.Sprintf("%q", c.args))
	if vm.proc, err = spawn(l.Binary, c); err != nil {
		return abandon(err)
	}
	vm.qmp = newQMP(controlConn, vm.event)
	vm.attachConsole(l, serialConn)
	bounded, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for _, f := range theirs {
		_ = f.Close() // so that QEMU's end is seen as the end of the sockets
	}
	theirs = nil
	if err := vm.qmp.execute(bounded, "qmp_capabilities", nil); err != nil {
		if errors.Is(err, errQMPClosed) {
			select {
			case <-vm.proc.exited: // its own end says more
			case <-time.After(flushTimeout):
			}
		}
		vm.proc.kill()
		<-vm.console
		if errors.Is(err, errQMPClosed) || vm.proc.messages.text() != "" {
			err = vm.proc.failure()
		}
		return errors.Join(err, controlConn.Close())
	}
	go vm.watch(controlConn, l.Ended)
	if accel == accelTCG {
		go vm.watchTimer()
	}
	return nil
}

func (vm *VM) serveVsock(device *Vsock) {
	if err := device.device.Serve(context.Background()); err != nil && vm.Alive() {
		vm.log.Error("vsock has stopped", "err", err)
	}
}

// Alive tells whether the guest has not ended yet.
func (vm *VM) Alive() bool {
	select {
	case <-vm.done:
		return false
	case <-vm.closing:
		return false
	default:
		return true
	}
}

func (vm *VM) attachConsole(l *Launcher, conn net.Conn) {
	out := l.Stdout
	switch {
	case vm.spec.SerialOut != nil:
		out = vm.spec.SerialOut
	case l.Stdin != nil:
		go func() {
			// Ends with the process: a read from standard input cannot be called off.
			_, _ = io.Copy(conn, l.Stdin)
		}()
	}
	go func() {
		defer close(vm.console)
		defer conn.Close()
		relay(out, conn)
		if vm.spec.SerialOut != nil {
			_ = vm.spec.SerialOut.Close() // unbuffered
		}
	}()
}

// event hears what QEMU reports.
func (vm *VM) event(name string, data json.RawMessage) {
	vm.log.Debug("QEMU event", "event", name, "data", string(data))
	switch name {
	case "STOP":
		select {
		case <-vm.reset:
			vm.stop.Do(func() { close(vm.stopped) })
		default: // a pause
		}
	case "SHUTDOWN":
		var d struct{ Reason string }
		_ = json.Unmarshal(data, &d) // without a reason it is a shutdown
		if d.Reason == "guest-reset" {
			vm.resetIt.Do(func() { close(vm.reset) })
			return
		}
		vm.log.Info("the guest has powered off; as under Firecracker the VMM stays", "reason", d.Reason)
	}
}

// watch waits for the guest's end: its reboot, QEMU's death, or Close.
func (vm *VM) watch(control io.Closer, ended func(error)) {
	select {
	case <-vm.reset:
		// QEMU stops the guest, and by that writes out its disks' requests, right after it has told of the reset.
		select {
		case <-vm.stopped:
		case <-vm.proc.exited:
		case <-time.After(flushTimeout):
			vm.log.Warn("QEMU did not stop the guest after its reboot")
		}
	case <-vm.closing:
	case vm.err = <-vm.lost:
	case <-vm.proc.exited:
		select {
		case <-vm.reset:
		case <-vm.closing:
		default:
			vm.err = vm.proc.failure()
		}
	}
	vm.proc.kill()
	<-vm.console
	_ = control.Close() // QEMU's end has gone
	close(vm.done)
	ended(vm.err)
}

// Done is closed when the guest has ended and its console's last byte is out.
func (vm *VM) Done() <-chan struct{} { return vm.done }

// Err is nil when the guest rebooted or was closed, and otherwise says how QEMU died. It is valid once Done is closed.
func (vm *VM) Err() error { return vm.err }

// Close ends the guest at once.
func (vm *VM) Close() error {
	vm.close.Do(func() { close(vm.closing) })
	<-vm.done
	return nil
}

// Pause stops the guest's vCPUs.
func (vm *VM) Pause(ctx context.Context) error {
	err := vm.qmp.execute(ctx, "stop", nil)
	if err == nil {
		vm.paused.Store(true)
	}
	return err
}

// Resume lets them run.
func (vm *VM) Resume(ctx context.Context) error {
	err := vm.qmp.execute(ctx, "cont", nil)
	if err == nil {
		vm.paused.Store(false)
	}
	return err
}

// CtrlAltDel presses these keys.
func (vm *VM) CtrlAltDel(ctx context.Context) error {
	type key struct {
		Type string `json:"type"`
		Data string `json:"data"`
	}
	keys := []key{{"qcode", "ctrl"}, {"qcode", "alt"}, {"qcode", "delete"}}
	return vm.qmp.execute(ctx, "send-key", map[string]any{"keys": keys})
}
