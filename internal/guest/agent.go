// Package guest is the guest agent: PID 1 of a microVM. It mounts what the guest needs, loads the modules of the boot, and
// serves the contract of package guestapi to the host and to nobody else.
//
// Run is called once, by main, and does not return while the guest lives. The calls of the service are legal in the order that
// guestapi gives; each checks it. Everything else in the package runs inside of Run.
//
// The way from the agent's first instruction to its first answer is on the critical path of every start (under emulation it is a
// large part of it), so Run does first what the host waits for: vsock, listen, transport. The rest is done while the host's first
// call is on its way; the calls that need it wait for it.
package guest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"time"

	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/guestapi"
	"github.com/runcvm/runcvm/internal/guestapi/callers"
)

// Options is what differs between a guest and a test of the agent.
type Options struct {
	// Listen opens a port for the host. It fails for as long as the kernel has no vsock.
	Listen func(port uint32) (net.Listener, error)
	// End ends the guest, after Shutdown.
	End func()
}

// agent is the state of the whole guest.
type agent struct {
	started int64 // CLOCK_BOOTTIME at the start of main, nanoseconds
	level   *slog.LevelVar
	reaper  *reaper
	clock   *clock
	boot    *bootTask
	state   registry
	calls   *callers.Callers
	copies  transfers
	listen  func(uint32) (net.Listener, error)
	// loopback is where connections from the host are that end at the guest's own loopback address.
	loopback loopback
	end      func()
}

// Run is the life of PID 1. It returns only when the guest cannot serve, with the reason; the caller then reboots.
func Run(ctx context.Context, o Options) error {
	a := &agent{started: bootNanos(), level: new(slog.LevelVar), clock: &clock{}, boot: newBootTask(),
		calls: callers.New(), end: o.End, listen: o.Listen}
	a.state.init()
	if err := moveRoot(); err != nil {
		return err
	}
	setupLog(a.level)
	a.reaper = startReaper()
	listeners, rest, err := openPorts(o.Listen)
	if err != nil {
		return err
	}
	failed := make(chan error, len(listeners))
	server, err := ttrpc.NewServer(ttrpc.WithUnaryServerInterceptor(recoverPanic))
	if err != nil {
		return err
	}
	guestapi.RegisterAgentService(server, &service{a})
	guestapi.RegisterCopyService(server, &copyService{a})
	guestapi.RegisterControlService(server, &controlService{a})
	guestapi.RegisterNetworkService(server, &networkService{a})
	go func() { failed <- server.Serve(ctx, a.calls.Track(listeners[0])) }()
	go func() { failed <- a.serveStreams(listeners[1]) }()
	go a.boot.run(func() error { return prepareGuest(rest) })
	return <-failed
}

// openPorts loads modules until the kernel has vsock, opens both ports, and goes on until the transport is up, so that the
// host's connection, which has been waiting since before the boot, finds an open port. It returns the modules that are left.
func openPorts(listen func(uint32) (net.Listener, error)) (l []net.Listener, rest []string, err error) {
	rest, err = modulesToLoad()
	if err != nil {
		return nil, nil, err
	}
	for {
		if l, err = listenAll(listen); err == nil {
			break
		}
		if len(rest) == 0 || !errors.Is(err, unix.EAFNOSUPPORT) {
			return nil, nil, fmt.Errorf("the kernel has no vsock: %w", err)
		}
		if err := loadModule(rest[0]); err != nil {
			return nil, nil, err
		}
		rest = rest[1:]
	}
	for i, m := range rest {
		if err := loadModule(m); err != nil {
			return nil, nil, err
		}
		if isTransport(m) {
			return l, rest[i+1:], nil
		}
	}
	return l, nil, nil
}

func listenAll(listen func(uint32) (net.Listener, error)) ([]net.Listener, error) {
	var out []net.Listener
	for _, port := range []uint32{guestapi.PortAgent, guestapi.PortStream} {
		l, err := listen(port)
		if err != nil {
			for _, l := range out {
				l.Close()
			}
			return nil, err
		}
		out = append(out, l)
	}
	return out, nil
}

// recoverPanic makes a panic in a call an error of that call: the agent never exits.
func recoverPanic(ctx context.Context, unmarshal ttrpc.Unmarshaler, info *ttrpc.UnaryServerInfo, method ttrpc.Method) (
	resp any, err error) {
	defer func() {
		if p := recover(); p != nil {
			slog.Error("panic in a call", "method", info.FullMethod, "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("the guest agent failed in %s: %v", info.FullMethod, p)
		}
	}()
	return method(ctx, unmarshal)
}

// bootNanos is CLOCK_BOOTTIME in nanoseconds.
func bootNanos() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	return ts.Nano()
}

// bootTask is the part of the boot that goes on after the agent listens.
type bootTask struct {
	done chan struct{}
	err  error
}

func newBootTask() *bootTask { return &bootTask{done: make(chan struct{})} }

func (b *bootTask) run(f func() error) {
	defer close(b.done)
	defer func() {
		if p := recover(); p != nil {
			b.err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
		if b.err != nil {
			slog.Error("the guest could not be prepared", "error", b.err)
		}
	}()
	b.err = f()
}

// wait returns when the guest is prepared, or with the reason why it is not.
func (b *bootTask) wait(ctx context.Context) error {
	select {
	case <-b.done:
		return b.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Reboot ends the guest, and with reboot=k on the kernel's command line the VMM. It does not return.
func Reboot() {
	unix.Sync()
	err := unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	fmt.Fprintln(os.Stderr, "reboot:", err)
	// Without CAP_SYS_BOOT this is not a guest; with it the call does not return.
	time.Sleep(time.Second)
	os.Exit(1)
}
