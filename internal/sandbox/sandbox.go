// Package sandbox is the heart: a microVM and the containers in it.
//
// Legal order: Launch runs the VMM, Boot configures and boots it and waits for its agent, Create makes a container of
// attached disks, Container.Start runs its process, Container.Wait tells its end. Shutdown ends the guest in order, Kill at
// once; both are legal at any time after Launch, also twice.
package sandbox

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/containerd/ttrpc"

	"github.com/runcvm/runcvm/internal/firecracker"
	"github.com/runcvm/runcvm/internal/guestapi"
	"github.com/runcvm/runcvm/internal/logfile"
	"github.com/runcvm/runcvm/internal/timeline"
)

// Config says what microVM to make.
type Config struct {
	ID  string
	VMM string // path of the program
	// Dir takes the sockets; it must be the working directory of the calling process.
	Dir string
	// Vsock is the name of the vsock's Unix socket in Dir.
	Vsock string
	// ConsoleLog and VMMLog are the paths of the two logs.
	ConsoleLog, VMMLog string

	KernelArgs string // added to the command line
	MemoryMiB  int64
	VCPUs      int
	// BootTimeout bounds the time until the VMM's API has answered, that from InstanceStart until the agent has, and then each step of
	// the start that waits for the agent: the mounts, the process.
	BootTimeout time.Duration

	Hostname string
	LogLevel string // of the agent

	Log      *slog.Logger
	Timeline *timeline.Recorder
}

const (
	// logLimit bounds each of the console's and the VMM's log on disk, in bytes.
	logLimit = 1 << 20
	// guestCID is any context id above those that vsock(7) reserves: each VMM has a vsock of its own.
	guestCID = 3
	// entropyBytes seeds the guest's random number generator: twice what its pool takes in.
	entropyBytes = 64
	// configTimeout bounds all that is told the VMM before the boot: some requests of under 1 ms each.
	configTimeout = 20 * time.Second
	// shutdownTimeout bounds the guest's orderly end, mostly the write-back of its page cache.
	shutdownTimeout = 20 * time.Second
	// evidenceLines is how much of each log an error carries: a kernel's panic has its reason above some 40 lines of trace.
	evidenceLines = 60
)

// Sandbox is one microVM.
type Sandbox struct {
	cfg     Config
	vmm     *firecracker.Process
	console *logfile.File
	vmmLog  *logfile.File
	version firecracker.Version

	drainTimeout time.Duration // the constant, but in tests

	rpc     *ttrpc.Client
	agent   guestapi.AgentService
	control guestapi.ControlService
	network guestapi.NetworkService
	guest   *guestapi.SetupResponse

	stop    context.CancelFunc // ends the clock's keeper
	keepers sync.WaitGroup
}

// Launch runs the VMM and gives it what needs no disk and no kernel, since those may still be in the making.
func Launch(ctx context.Context, cfg Config) (*Sandbox, error) {
	defer cfg.Timeline.Phase("vmm")()
	s := &Sandbox{cfg: cfg, drainTimeout: drainTimeout, stop: func() {}}
	var err error
	if s.console, err = logfile.Create(cfg.ConsoleLog, logLimit); err != nil {
		return nil, err
	}
	if s.vmmLog, err = logfile.Create(cfg.VMMLog, logLimit); err != nil {
		return nil, errors.Join(err, s.console.Close())
	}
	s.vmm, err = firecracker.Start(ctx, firecracker.Options{
		Timeout: cfg.BootTimeout,
		Path:    cfg.VMM, ID: vmID(cfg.ID), Dir: cfg.Dir, Console: s.console.Lossy(), Log: s.vmmLog.Lossy(),
	})
	if err != nil {
		return nil, errors.Join(s.evidence(err), s.console.Close(), s.vmmLog.Close())
	}
	if s.version, err = s.vmm.Version(ctx); err == nil {
		err = s.configureMachine(ctx)
	}
	if err != nil {
		s.Kill()
		return nil, s.evidence(err)
	}
	return s, nil
}

func (s *Sandbox) configureMachine(ctx context.Context) error {
	err := s.vmm.PutMachineConfig(ctx, firecracker.MachineConfig{VCPUCount: s.cfg.VCPUs, MemSizeMiB: s.cfg.MemoryMiB})
	if err != nil {
		return err
	}
	if err := s.vmm.PutVsock(ctx, firecracker.Vsock{GuestCID: guestCID, UDSPath: s.cfg.Vsock}); err != nil {
		return err
	}
	return s.vmm.PutEntropy(ctx)
}

// vmID cuts a container's id to what Firecracker takes: [A-Za-z0-9-]{1,64}.
func vmID(id string) string {
	b := []byte(id)[:min(len(id), 64)]
	for i, c := range b {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9') {
			b[i] = '-'
		}
	}
	return string(b)
}

// VMMVersion is what the VMM says of its API's version.
func (s *Sandbox) VMMVersion() string { return s.version.Firecracker }

// KernelRelease is the guest's uname -r, printable and of at most 64 bytes; empty before Boot. It comes from the guest.
func (s *Sandbox) KernelRelease() string { return clean(s.guest.GetKernelRelease(), maxRelease) }

// Drive is a disk to attach.
type Drive struct {
	ID       string // letters, digits, underscores
	Path     string // absolute
	ReadOnly bool
}

// BootFiles are what the guest boots from, by absolute paths.
type BootFiles struct {
	Kernel, Initramfs string
	Drives            []Drive
	// NICs are the guest's network interfaces, and Network what its agent makes of them; without Network the guest has its own loopback
	// only.
	NICs    []firecracker.NetworkInterface
	Network *guestapi.NetworkRequest
}

// Boot attaches the disks, boots the guest and returns when its agent has answered.
func (s *Sandbox) Boot(ctx context.Context, files BootFiles) error {
	configured := s.cfg.Timeline.Phase("vmm-config")
	err := s.configure(ctx, files)
	configured()
	if err != nil {
		err = s.bootError(ctx, err)
	} else {
		err = s.boot(ctx, files.Network)
	}
	if err != nil {
		return s.evidence(fmt.Errorf("boot the microVM: %w", err))
	}
	return nil
}

func (s *Sandbox) configure(ctx context.Context, files BootFiles) error {
	ctx, cancel := context.WithTimeoutCause(ctx, configTimeout,
		fmt.Errorf("the VMM has not taken its configuration within %s", configTimeout))
	defer cancel()
	err := s.vmm.PutBootSource(ctx, firecracker.BootSource{
		KernelImagePath: files.Kernel, InitrdPath: files.Initramfs, BootArgs: s.commandLine(),
	})
	if err != nil {
		return err
	}
	for _, d := range files.Drives {
		if err := s.vmm.PutDrive(ctx, firecracker.Drive{ID: d.ID, PathOnHost: d.Path, IsReadOnly: d.ReadOnly}); err != nil {
			return err
		}
	}
	for _, n := range files.NICs {
		if err := s.vmm.PutNetworkInterface(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

// boot starts the guest, greets its agent and has it set up the network. It ends early when the VMM does.
func (s *Sandbox) boot(ctx context.Context, network *guestapi.NetworkRequest) error {
	ctx, cancel := s.within(ctx, "answered")
	defer cancel()
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	defer s.onExit(func() { fail(s.exitReason()) })()

	s.cfg.Timeline.Add("instance-start", s.cfg.Timeline.Now(), s.cfg.Timeline.Now())
	if err := s.vmm.InstanceStart(ctx); err != nil {
		return s.bootError(ctx, err)
	}
	kernel := s.cfg.Timeline.Phase("kernel")
	conn, err := firecracker.DialRetry(ctx, s.cfg.Vsock, guestapi.PortAgent)
	kernel()
	if err != nil {
		return s.bootError(ctx, err)
	}
	defer s.cfg.Timeline.Phase("agent")()
	s.rpc, s.agent = newAgent(conn)
	s.control, s.network = guestapi.NewControlClient(s.rpc), guestapi.NewNetworkClient(s.rpc)
	seed := make([]byte, entropyBytes)
	rand.Read(seed)
	s.guest, err = s.agent.Setup(ctx, &guestapi.SetupRequest{
		UnixNanos: time.Now().UnixNano(), Entropy: seed, Hostname: s.cfg.Hostname, LogLevel: s.cfg.LogLevel,
	})
	if err != nil {
		return s.bootError(ctx, fmt.Errorf("set the guest up: %w", err))
	}
	if network != nil {
		if err := s.configureNetwork(ctx, network); err != nil {
			return s.bootError(ctx, err)
		}
	}
	keep, stop := context.WithCancel(context.WithoutCancel(ctx))
	s.stop = stop
	s.keepers.Go(func() { s.keepClock(keep) })
	return nil
}

// bootError gives the reason behind an error of the boot: the deadline, or the VMM's end, which tears connections a moment
// before it is known.
func (s *Sandbox) bootError(ctx context.Context, err error) error {
	if ctx.Err() == nil && tornOff(err) && s.endsSoon() {
		return fmt.Errorf("%w (%w)", s.exitReason(), err)
	}
	return cause(ctx, err)
}

// cause prefers the reason why ctx ended over the error that the end led to.
func cause(ctx context.Context, err error) error {
	if c := context.Cause(ctx); c != nil && !errors.Is(err, c) {
		return fmt.Errorf("%w (%w)", c, err)
	}
	return err
}

// tornOff says whether an error is a connection's end, which may be the VMM's.
func tornOff(err error) bool {
	network := new(net.OpError)
	return errors.Is(err, ttrpc.ErrClosed) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &network)
}

// endGrace is how long the end of a VMM may take to be seen once its connections have ended.
const endGrace = time.Second

// endsSoon waits a moment for the VMM's end, and says whether it has come.
func (s *Sandbox) endsSoon() bool {
	t := time.NewTimer(endGrace)
	defer t.Stop()
	select {
	case <-s.vmm.Done():
		return true
	case <-t.C:
		return false
	}
}

// exitReason says how the VMM ended, which it must have.
func (s *Sandbox) exitReason() error {
	if err := s.vmm.Err(); err != nil {
		return fmt.Errorf("the VMM ended: %w", err)
	}
	return errors.New("the guest ended by itself")
}

// onExit calls f when the VMM ends, until the returned function is called.
func (s *Sandbox) onExit(f func()) (stop func()) {
	quit := make(chan struct{})
	go func() {
		select {
		case <-s.vmm.Done():
			f()
		case <-quit:
		}
	}()
	return func() { close(quit) }
}

// Done is closed when the VMM has ended.
func (s *Sandbox) Done() <-chan struct{} { return s.vmm.Done() }

// Shutdown ends the guest so that its disks are clean, and then the VMM. A guest that does not answer in time is killed,
// which is reported.
func (s *Sandbox) Shutdown(ctx context.Context) error {
	defer s.Kill()
	select {
	case <-s.vmm.Done():
		return nil
	default:
	}
	if s.agent == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, shutdownTimeout)
	defer cancel()
	if _, err := s.agent.Shutdown(ctx, &guestapi.ShutdownRequest{}); err != nil {
		return s.evidence(fmt.Errorf("shut the guest down: %w", err))
	}
	return nil
}

// Kill ends the VMM at once and releases what the sandbox holds.
func (s *Sandbox) Kill() {
	s.stop()
	s.vmm.Kill()
	if s.rpc != nil {
		_ = s.rpc.Close()
	}
	s.keepers.Wait()
	_ = s.console.Close()
	_ = s.vmmLog.Close()
}

// evidence adds the end of the VMM's log and of the guest's console to an error.
func (s *Sandbox) evidence(err error) error {
	e := &EvidenceError{Err: err}
	e.VMMLog = logfile.Tail(s.cfg.VMMLog, evidenceLines)
	e.Console = logfile.Tail(s.cfg.ConsoleLog, evidenceLines)
	return e
}

// EvidenceError is a failure with what VMM and guest wrote last.
type EvidenceError struct {
	Err             error
	VMMLog, Console string
}

func (e *EvidenceError) Error() string {
	return fmt.Sprintf("%v\n%s%s", e.Err, section("VMM's log", e.VMMLog), section("guest's console", e.Console))
}

// Unwrap returns the failure itself.
func (e *EvidenceError) Unwrap() error { return e.Err }

func section(title, text string) string {
	if text == "" {
		return "-- " + title + ": empty\n"
	}
	return "-- end of the " + title + ":\n" + text + "\n"
}

// commandLine is the guest kernel's.
func (s *Sandbox) commandLine() string {
	line := defaultKernelArgs
	if s.cfg.LogLevel == "debug" {
		line += " loglevel=7"
	} else {
		line += " quiet"
	}
	if s.cfg.KernelArgs != "" {
		line += " " + s.cfg.KernelArgs
	}
	return line
}

// defaultKernelArgs: the console; a reboot by the keyboard controller, which ends Firecracker, also after a panic; one
// serial port; no search for a mouse and a keyboard on the controller; the CPU's random numbers trusted, so that nothing
// waits for entropy; no self-tests of the cipher implementations, most of an emulated boot; no driver for a real-time
// clock, which Firecracker does not have and which is waited for (the agent sets the clock).
const defaultKernelArgs = "console=ttyS0 reboot=k panic=-1 8250.nr_uarts=1 i8042.noaux i8042.nomux i8042.dumbkbd random.trust_cpu=on " +
	"cryptomgr.notests initcall_blacklist=cmos_init"
