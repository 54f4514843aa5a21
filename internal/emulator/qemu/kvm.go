package qemu

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// KVM's ioctls and constants (linux/kvm.h, x86).
const (
	kvmCreateVM            = 0xAE01
	kvmGetVCPUMmapSize     = 0xAE04
	kvmCreateVCPU          = 0xAE41
	kvmSetUserMemoryRegion = 0x4020AE46
	kvmRun                 = 0xAE80
	kvmSetRegs             = 0x4090AE82
	kvmGetSregs            = 0x8138AE83
	kvmSetSregs            = 0x4138AE84

	kvmExitHalt     = 5
	exitReasonAt    = 8 // offset of exit_reason in struct kvm_run
	kvmSregsSize    = 312
	kvmRegsSize     = 144
	kvmRegsRIP      = 128
	kvmRegsRFLAGS   = 136
	kvmProbeAddress = 0x1000
)

// kvmProbeTimeout bounds the probe: it takes a millisecond, and some seconds where KVM itself is emulated and the host busy.
const kvmProbeTimeout = 5 * time.Second

// chooseAccelerator says how guests run, in the background: an interpreted KVM takes its time to show what it is.
func chooseAccelerator(configured string, log *slog.Logger) func() string {
	if configured != accelAuto {
		return func() string { return configured }
	}
	result := make(chan error, 1)
	go func() {
		// KVM_RUN belongs to the thread that made the vCPU.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		result <- probeKVM()
	}()
	return sync.OnceValue(func() string {
		var err error
		select {
		case err = <-result:
		case <-time.After(kvmProbeTimeout):
			err = errors.New("a probing guest does not end")
		}
		if err != nil {
			log.Info("QEMU emulates: KVM runs no guest here", "reason", err)
			return accelTCG
		}
		log.Info("QEMU runs the guest by KVM")
		return accelKVM
	})
}

// kvmProbeCode counts 16384 rounds and halts, in real mode: mov cx, 16384; loop self; hlt.
var kvmProbeCode = []byte{0xB9, 0x00, 0x40, 0xE2, 0xFE, 0xF4}

const (
	// kvmProbeSlow is much longer than any processor takes for the probe's code: 30 µs, or some hundreds where the processor
	// itself is emulated. A KVM that interprets its guests takes 20 ms, and QEMU's own emulation is faster then.
	kvmProbeSlow = 3 * time.Millisecond
	// kvmProbeRuns are allowed, for a busy host interrupts some.
	kvmProbeRuns = 3
)

// probeKVM runs a short guest: there are hosts where /dev/kvm opens but its guests cannot run, or only by interpretation.
func probeKVM() (err error) {
	kvm, err := unix.Open("/dev/kvm", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open /dev/kvm: %w", err)
	}
	fds := []int{kvm}
	defer func() {
		for _, fd := range fds {
			err = errors.Join(err, unix.Close(fd))
		}
	}()
	vm, err := ioctl(kvm, kvmCreateVM, 0)
	if err != nil {
		return fmt.Errorf("make a machine: %w", err)
	}
	fds = append(fds, vm)
	page, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	if err != nil {
		return fmt.Errorf("map the guest's memory: %w", err)
	}
	defer func() { err = errors.Join(err, unix.Munmap(page)) }()
	copy(page, kvmProbeCode)
	region := struct {
		slot, flags       uint32
		guest, size, host uint64
	}{guest: kvmProbeAddress, size: uint64(len(page)), host: uint64(uintptr(unsafe.Pointer(&page[0])))}
	if _, err := ioctl(vm, kvmSetUserMemoryRegion, unsafe.Pointer(&region)); err != nil {
		return fmt.Errorf("give the guest memory: %w", err)
	}
	vcpu, err := ioctl(vm, kvmCreateVCPU, 0)
	if err != nil {
		return fmt.Errorf("make a vCPU: %w", err)
	}
	fds = append(fds, vcpu)
	size, err := ioctl(kvm, kvmGetVCPUMmapSize, 0)
	if err != nil {
		return fmt.Errorf("size of a vCPU's state: %w", err)
	}
	state, err := unix.Mmap(vcpu, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map a vCPU's state: %w", err)
	}
	defer func() { err = errors.Join(err, unix.Munmap(state)) }()
	var took time.Duration
	for range kvmProbeRuns { // a halted vCPU starts again
		if took, err = runProbe(vcpu, state); err != nil || took < kvmProbeSlow {
			return err
		}
	}
	return fmt.Errorf("a probing guest takes %v", took.Round(time.Microsecond))
}

// runProbe runs the guest to its halt once.
func runProbe(vcpu int, state []byte) (time.Duration, error) {
	if err := enterAt(vcpu, kvmProbeAddress); err != nil {
		return 0, err
	}
	start := time.Now()
	for {
		_, err := ioctl(vcpu, kvmRun, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("run a guest: %w", err)
		}
		if reason := binary.NativeEndian.Uint32(state[exitReasonAt:]); reason != kvmExitHalt {
			return 0, fmt.Errorf("a probing guest ends with reason %d", reason)
		}
		return time.Since(start), nil
	}
}

// enterAt lets the vCPU begin at address, in real mode with a code segment at 0.
func enterAt(vcpu int, address uint64) error {
	var sregs [kvmSregsSize]byte
	if _, err := ioctl(vcpu, kvmGetSregs, unsafe.Pointer(&sregs)); err != nil {
		return fmt.Errorf("read a vCPU's registers: %w", err)
	}
	clear(sregs[0:8])   // cs.base
	clear(sregs[12:14]) // cs.selector
	if _, err := ioctl(vcpu, kvmSetSregs, unsafe.Pointer(&sregs)); err != nil {
		return fmt.Errorf("set a vCPU's registers: %w", err)
	}
	var regs [kvmRegsSize]byte
	binary.NativeEndian.PutUint64(regs[kvmRegsRIP:], address)
	binary.NativeEndian.PutUint64(regs[kvmRegsRFLAGS:], 2) // the bit that is always set
	if _, err := ioctl(vcpu, kvmSetRegs, unsafe.Pointer(&regs)); err != nil {
		return fmt.Errorf("set a vCPU's registers: %w", err)
	}
	return nil
}

func ioctl[T int | unsafe.Pointer](fd int, request uintptr, arg T) (int, error) {
	var a uintptr
	switch v := any(arg).(type) {
	case int:
		a = uintptr(v)
	case unsafe.Pointer:
		a = uintptr(v)
	}
	r, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, a)
	if errno != 0 {
		return 0, errno
	}
	return int(r), nil
}
