package api

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"
)

// Launcher boots what a VMM has been configured with. The API's checks have been made; its error text goes into the
// fault_message of InstanceStart.
type Launcher interface {
	Launch(ctx context.Context, spec Spec) (Machine, error)
}

// Machine is a running guest.
type Machine interface {
	// Pause stops the vCPUs, Resume lets them run; both may be called in either state.
	Pause(ctx context.Context) error
	Resume(ctx context.Context) error
	// CtrlAltDel presses these keys on the guest's keyboard.
	CtrlAltDel(ctx context.Context) error
	// ReplaceDrive puts another file behind the drive, whatever its size, and tells the guest.
	ReplaceDrive(ctx context.Context, drive Drive) error
	// Close ends the guest and waits until nothing of it is left.
	Close() error
}

// VsockDevice is the host's end of the guest's vsock; it is bound before boot and closed with the VMM.
type VsockDevice interface{ Close() error }

// Spec is all that the guest is made of.
type Spec struct {
	ID        string
	Machine   MachineConfig
	Boot      BootSource
	Cmdline   string  // Boot's arguments, or the default ones, and what Firecracker itself adds
	Drives    []Drive // in the order in which the guest sees them
	NICs      []NICSpec
	Vsock     VsockDevice // nil when there is none
	GuestCID  uint32
	Entropy   bool
	SerialOut *os.File // nil for standard output with standard input
}

// NICSpec is a network interface with its open TAP device.
type NICSpec struct {
	NIC
	Tap *os.File
}

// Options configure a VMM.
type Options struct {
	ID          string // microVM id, already checked by [CheckID]
	Launcher    Launcher
	ListenVsock func(cid uint32, udsPath string) (VsockDevice, error)
	Log         *Log
	Metrics     *MetricsFile
	MaxPayload  int // bytes; 0 is [MaxPayload]
}

// VMM is one microVM and what has been asked of it so far.
type VMM struct {
	opts Options

	// turn is held for a whole request, boot included: Firecracker's API thread serves one request after another, and
	// its order rules depend on that.
	turn    sync.Mutex
	state   string
	machine Machine
	config  resources
	closed  bool
}

// resources are what requests before boot have collected.
type resources struct {
	machine MachineConfig
	boot    *BootSource
	drives  []Drive
	nics    []NICSpec
	vsock   *Vsock
	vsockAt VsockDevice
	entropy *Entropy
	serial  Serial
}

const (
	stateNotStarted = "Not started"
	stateRunning    = "Running"
	statePaused     = "Paused"
)

// New makes a VMM that is not started.
func New(opts Options) *VMM {
	if opts.MaxPayload == 0 {
		opts.MaxPayload = MaxPayload
	}
	return &VMM{
		opts:   opts,
		state:  stateNotStarted,
		config: resources{machine: MachineConfig{VCPUCount: 1, MemSizeMiB: 128, HugePages: "None"}},
	}
}

// Start boots the guest, as the action InstanceStart does.
func (v *VMM) Start(ctx context.Context) error {
	v.turn.Lock()
	defer v.turn.Unlock()
	if v.machine != nil {
		return errPostBoot
	}
	_, err := startInstance(ctx, v)
	return err
}

// Close ends the guest, if it runs, and closes every device. It is safe to call again.
func (v *VMM) Close() error {
	v.turn.Lock()
	defer v.turn.Unlock()
	if v.closed {
		return nil
	}
	v.closed = true
	var err error
	if v.machine != nil {
		err = v.machine.Close()
	}
	for _, n := range v.config.nics {
		_ = n.Tap.Close() // nothing is buffered in it
	}
	if v.config.vsockAt != nil {
		closeLogged(v.config.vsockAt, "vsock", v.opts.Log.Logger())
	}
	return err
}

func closeLogged(c io.Closer, what string, log *slog.Logger) {
	if err := c.Close(); err != nil {
		log.Warn("close "+what, "err", err)
	}
}

// startInstance boots the guest; the caller holds the turn.
func startInstance(ctx context.Context, v *VMM) (any, error) {
	c := &v.config
	if c.boot == nil {
		return nil, faultf("Start microvm error: Cannot start microvm without kernel configuration.")
	}
	line, err := cmdline(c)
	if err != nil {
		return nil, err
	}
	if err := checkKernel(c.boot.KernelImagePath); err != nil {
		return nil, err
	}
	spec := Spec{
		ID:      v.opts.ID,
		Machine: c.machine,
		Boot:    *c.boot,
		Cmdline: line,
		Drives:  slices.Clone(c.drives),
		NICs:    slices.Clone(c.nics),
		Vsock:   c.vsockAt,
		Entropy: c.entropy != nil,
	}
	if c.vsock != nil {
		spec.GuestCID = c.vsock.GuestCID
	}
	if c.serial.OutPath != nil {
		f, err := openOutput(*c.serial.OutPath)
		if err != nil {
			return nil, faultf("Start microvm error: Failed to create device manager: Error with EventFd: %s", rustError(err))
		}
		spec.SerialOut = f
	}
	start := time.Now()
	machine, err := v.opts.Launcher.Launch(ctx, spec)
	if err != nil {
		if spec.SerialOut != nil {
			_ = spec.SerialOut.Close() // the launcher's error is the one that matters
		}
		return nil, faultf("Start microvm error: %v", err)
	}
	v.opts.Log.Logger().Info("started microVM in QEMU", "took", time.Since(start).Round(time.Millisecond))
	v.machine, v.state = machine, stateRunning
	return nil, nil
}

// defaultCmdline is Firecracker's when boot_args is not given.
const defaultCmdline = "reboot=k panic=1 nomodule 8250.nr_uarts=0 i8042.noaux i8042.nomux i8042.dumbkbd swiotlb=noforce"

// MaxCmdline is Firecracker's CMDLINE_MAX_SIZE on x86_64, in bytes and with the final zero. Linux has the same limit.
const MaxCmdline = 2048

// cmdline adds to the boot arguments what Firecracker adds: no PCI, and the root device. Firecracker also lists the devices,
// which the guest here finds through ACPI alone; they only need to have room, so that what starts here starts there.
func cmdline(c *resources) (string, error) {
	line := defaultCmdline
	if c.boot.BootArgs != nil {
		line = *c.boot.BootArgs
	}
	line += " pci=off"
	for _, d := range c.drives {
		if !d.IsRootDevice {
			continue
		}
		root, mode := "/dev/vda", "rw"
		if d.PartUUID != nil {
			root = "PARTUUID=" + *d.PartUUID
		}
		if *d.IsReadOnly {
			mode = "ro"
		}
		line += " root=" + root + " " + mode
	}
	devices := len(c.drives) + len(c.nics)
	if c.vsock != nil {
		devices++
	}
	if c.entropy != nil {
		devices++
	}
	room := len(line) + 1
	const firstInterrupt = 5 // Firecracker's GSI_LEGACY_START
	for k := range devices {
		room += len(fmt.Sprintf(" virtio_mmio.device=4K@0xc0001000:%d", firstInterrupt+k))
	}
	if room > MaxCmdline {
		return "", faultf("Start microvm error: Invalid kernel command line: Inserting string would make command line too long.")
	}
	return line, nil
}

// checkKernel refuses what is no ELF file: Firecracker boots nothing else, QEMU would.
func checkKernel(path string) error {
	const loader = "Start microvm error: System configuration error: Cannot load kernel due to invalid memory configuration or " +
		"invalid kernel image: Kernel Loader: failed to load ELF kernel image: Kernel Loader: "
	f, err := os.Open(path)
	if err != nil {
		return faultf("Start microvm error: %s", rustError(err))
	}
	defer f.Close()
	var head [64]byte // struct elf64_hdr
	if _, err := io.ReadFull(f, head[:]); err != nil {
		return faultf(loader + "Unable to read elf header")
	}
	if string(head[:4]) != "\x7fELF" {
		return faultf(loader + "Invalid Elf magic number")
	}
	return nil
}
