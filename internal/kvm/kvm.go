// Package kvm tells whether KVM runs guests here: there are hosts where /dev/kvm opens but its guests cannot run, or only by
// interpretation. Probe is legal at any time.
package kvm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Device is KVM's.
const Device = "/dev/kvm"

// KVM's ioctls and constants (linux/kvm.h, x86).
const (
	createVM            = 0xAE01
	getVCPUMmapSize     = 0xAE04
	createVCPU          = 0xAE41
	setUserMemoryRegion = 0x4020AE46
	runVCPU             = 0xAE80
	setRegs             = 0x4090AE82
	getSregs            = 0x8138AE83
	setSregs            = 0x4138AE84

	exitHalt     = 5
	exitReasonAt = 8 // offset of exit_reason in struct kvm_run
	sregsSize    = 312
	regsSize     = 144
	regsRIP      = 128
	regsRFLAGS   = 136
	probeAddress = 0x1000
)

// probeCode counts 16384 rounds and halts, in real mode: mov cx, 16384; loop self; hlt.
var probeCode = []byte{0xB9, 0x00, 0x40, 0xE2, 0xFE, 0xF4}

// Slow is much longer than any processor takes for the probe's guest: 30 µs, or some hundreds where the processor itself is
// emulated. A KVM that interprets its guests takes 20 ms, and QEMU's own emulation is faster then.
const Slow = 3 * time.Millisecond

// probeRuns are allowed, for a busy host interrupts some.
const probeRuns = 3

// timeout bounds the probe: it takes a millisecond, and some seconds where KVM itself is emulated and the host busy.
const timeout = 10 * time.Second

// Probe runs a short guest and returns how long that took: the first time below Slow, or the last of several.
func Probe() (time.Duration, error) {
	type result struct {
		took time.Duration
		err  error
	}
	done := make(chan result, 1)
	go func() {
		// KVM_RUN belongs to the thread that made the vCPU.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		took, err := probe()
		done <- result{took, err}
	}()
	select {
	case r := <-done:
		return r.took, r.err
	case <-time.After(timeout):
		return 0, errors.New("a probing guest does not end")
	}
}

func probe() (took time.Duration, err error) {
	kvm, err := unix.Open(Device, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open %s: %w", Device, err)
	}
	fds := []int{kvm}
	defer func() {
		for _, fd := range fds {
			err = errors.Join(err, unix.Close(fd))
		}
	}()
	vm, err := ioctl(kvm, createVM, 0)
	if err != nil {
		return 0, fmt.Errorf("make a machine: %w", err)
	}
	fds = append(fds, vm)
	page, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	if err != nil {
		return 0, fmt.Errorf("map the guest's memory: %w", err)
	}
	defer func() { err = errors.Join(err, unix.Munmap(page)) }()
	copy(page, probeCode)
	region := struct {
		slot, flags       uint32
		guest, size, host uint64
	}{guest: probeAddress, size: uint64(len(page)), host: uint64(uintptr(unsafe.Pointer(&page[0])))}
	if _, err := ioctl(vm, setUserMemoryRegion, unsafe.Pointer(&region)); err != nil {
		return 0, fmt.Errorf("give the guest memory: %w", err)
	}
	vcpu, err := ioctl(vm, createVCPU, 0)
	if err != nil {
		return 0, fmt.Errorf("make a vCPU: %w", err)
	}
	fds = append(fds, vcpu)
	size, err := ioctl(kvm, getVCPUMmapSize, 0)
	if err != nil {
		return 0, fmt.Errorf("size of a vCPU's state: %w", err)
	}
	state, err := unix.Mmap(vcpu, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return 0, fmt.Errorf("map a vCPU's state: %w", err)
	}
	defer func() { err = errors.Join(err, unix.Munmap(state)) }()
	for range probeRuns { // a halted vCPU starts again
		if took, err = runProbe(vcpu, state); err != nil || took < Slow {
			break
		}
	}
	return took, err
}

// runProbe runs the guest to its halt once.
func runProbe(vcpu int, state []byte) (time.Duration, error) {
	if err := enterAt(vcpu, probeAddress); err != nil {
		return 0, err
	}
	start := time.Now()
	for {
		_, err := ioctl(vcpu, runVCPU, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("run a guest: %w", err)
		}
		if reason := binary.NativeEndian.Uint32(state[exitReasonAt:]); reason != exitHalt {
			return 0, fmt.Errorf("a probing guest ends with reason %d", reason)
		}
		return time.Since(start), nil
	}
}

// enterAt lets the vCPU begin at address, in real mode with a code segment at 0.
func enterAt(vcpu int, address uint64) error {
	var sregs [sregsSize]byte
	if _, err := ioctl(vcpu, getSregs, unsafe.Pointer(&sregs)); err != nil {
		return fmt.Errorf("read a vCPU's registers: %w", err)
	}
	clear(sregs[0:8])   // cs.base
	clear(sregs[12:14]) // cs.selector
	if _, err := ioctl(vcpu, setSregs, unsafe.Pointer(&sregs)); err != nil {
		return fmt.Errorf("set a vCPU's registers: %w", err)
	}
	var regs [regsSize]byte
	binary.NativeEndian.PutUint64(regs[regsRIP:], address)
	binary.NativeEndian.PutUint64(regs[regsRFLAGS:], 2) // the bit that is always set
	if _, err := ioctl(vcpu, setRegs, unsafe.Pointer(&regs)); err != nil {
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
