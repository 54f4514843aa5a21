package qemu

import (
	"context"
	"errors"
	"regexp"
	"strconv"
	"time"
)

const (
	// timerPause is between looks at a guest's timer. Linux has set it up within a second, unless the host is busy.
	timerPause = 250 * time.Millisecond
	// timerLooks is how many looks in a row must find the timer being measured: five times as long as that takes.
	timerLooks = 3
	// maxRestarts bounds how often a guest that has found no timer is booted anew.
	maxRestarts = 8
)

var errNoTimer = errors.New("the guest's kernel found no timer, again and again: the host is too busy to emulate it")

// watchTimer boots the guest anew when its kernel has found no timer, until it has one.
//
// Linux measures the local APIC's timer for a tenth of a second, against the TSC. When the host lets the processor's thread wait for all
// of that time, the timer seems not to move, Linux does without it, and for want of another one everything that waits waits for ever
// ("APIC frequency too slow, disabling apic timer" in arch/x86/kernel/apic/apic.c). The machine's other clocks would
// cost each boot time. What is seen here is a measurement that does not end, long before the guest has anything to lose.
func (vm *VM) watchTimer() {
	for restarts, looks := 0, 0; ; {
		select {
		case <-vm.done:
			return
		case <-time.After(timerPause):
		}
		apic, err := vm.qmp.ask(context.Background(), "info lapic")
		if err != nil {
			return // QEMU has gone
		}
		switch state := timerOf(apic); {
		case state == timerRuns:
			return
		case state == timerMeasured && !vm.paused.Load(): // a paused guest measures nothing
			looks++
		default:
			looks = 0
		}
		if looks < timerLooks {
			continue
		}
		if restarts == maxRestarts {
			vm.lost <- errNoTimer
			return
		}
		restarts++
		looks = 0
		vm.log.Warn("the guest's kernel found no timer, as happens when the host is very busy; it boots anew", "restarts", restarts)
		if err := vm.restart(context.Background()); err != nil {
			return // the same
		}
	}
}

// restart resets the machine, which for any other reset ends.
func (vm *VM) restart(ctx context.Context) error {
	err := errors.Join(
		vm.qmp.execute(ctx, "set-action", map[string]any{"reboot": "reset"}),
		vm.qmp.execute(ctx, "system_reset", nil),
		vm.qmp.execute(ctx, "set-action", map[string]any{"reboot": "shutdown"}),
	)
	if vsock, ok := vm.spec.Vsock.(*Vsock); ok {
		vsock.device.Restarted()
	}
	return err
}

// timerState is what can be said of the first processor's timer.
type timerState int

const (
	timerUnknown  timerState = iota // not set up yet
	timerMeasured                   // counts, and interrupts nobody
	timerRuns
)

var (
	lvtTimer     = regexp.MustCompile(`(?m)^LVTT\s+0x([0-9a-f]{8})\b`)
	initialCount = regexp.MustCompile(`(?m)^Timer\b.*\binitial_count ?= ?([0-9]+)`)
)

// timerOf judges by what QEMU prints of the local APIC. Linux masks the timer while it measures it, with a count that no tick has, and
// leaves it so when it gives it up; when it has no use for it, the count is 0.
func timerOf(apic string) timerState {
	const (
		masked   = 1 << 16         // Intel SDM volume 3, "Local Vector Table"
		measured = 0xffffffff / 16 // calibrate_APIC_clock in arch/x86/kernel/apic/apic.c, by APIC_DIVISOR
	)
	lvtt, count := lvtTimer.FindStringSubmatch(apic), initialCount.FindStringSubmatch(apic)
	if lvtt == nil || count == nil {
		return timerUnknown
	}
	entry, err1 := strconv.ParseUint(lvtt[1], 16, 32)
	initial, err2 := strconv.ParseUint(count[1], 10, 32)
	switch {
	case err1 != nil || err2 != nil:
		return timerUnknown
	case entry&masked == 0:
		return timerRuns
	case initial >= measured:
		return timerMeasured
	}
	return timerUnknown
}
