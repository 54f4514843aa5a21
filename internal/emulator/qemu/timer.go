package qemu

import (
	"context"
	"errors"
	"regexp"
	"strconv"
	"strings"
	"time"
)

const (
	// timerPause is between looks at a guest's timer. Linux has set it up within a second, unless the host is busy.
	timerPause = time.Second
	// maxRestarts bounds how often a guest that has found no timer is booted anew.
	maxRestarts = 4
)

var errNoTimer = errors.New("the guest's kernel found no timer, again and again: the host is too busy to emulate it")

// watchTimer boots the guest anew when its kernel has found no timer, until it has one.
//
// Linux measures the local APIC's timer for a tenth of a second, against the TSC. When the host lets the processor's thread wait for all
// of that time, the timer seems not to move, Linux does without it, and for want of another one everything that waits waits for ever
// ("APIC frequency too slow, disabling apic timer" in arch/x86/kernel/apic/apic.c). The machine's other clocks would
// cost each boot time.
func (vm *VM) watchTimer() {
	for restarts, suspect := 0, false; ; {
		select {
		case <-vm.done:
			return
		case <-time.After(timerPause):
		}
		state, err := vm.timer(context.Background())
		switch {
		case err != nil: // QEMU has gone
			return
		case state == timerRuns:
			return
		case state == timerUnknown || !suspect:
			suspect = state == timerLost
			continue
		case restarts == maxRestarts:
			vm.lost <- errNoTimer
			return
		}
		restarts++
		suspect = false
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
	timerUnknown timerState = iota // not set up yet, or a processor that works
	timerRuns
	timerLost
)

func (vm *VM) timer(ctx context.Context) (timerState, error) {
	apic, err := vm.qmp.ask(ctx, "info lapic")
	if err != nil {
		return timerUnknown, err
	}
	registers, err := vm.qmp.ask(ctx, "info registers")
	if err != nil {
		return timerUnknown, err
	}
	return timerOf(apic, registers), nil
}

var (
	lvtTimer     = regexp.MustCompile(`(?m)^LVTT\s+0x([0-9a-f]{8})\b`)
	initialCount = regexp.MustCompile(`(?m)^Timer\b.*\binitial_count ?= ?([0-9]+)`)
)

// timerOf judges by what QEMU prints of the local APIC and the registers. Linux masks the timer while it measures it, with a count that
// runs, and when it has no use for it, with a count of 0. A processor that halts with a masked timer that counts has given it up.
func timerOf(apic, registers string) timerState {
	const masked = 1 << 16 // Intel SDM volume 3, "Local Vector Table"
	lvtt, count := lvtTimer.FindStringSubmatch(apic), initialCount.FindStringSubmatch(apic)
	if lvtt == nil || count == nil {
		return timerUnknown
	}
	entry, err := strconv.ParseUint(lvtt[1], 16, 32)
	switch {
	case err != nil:
		return timerUnknown
	case entry&masked == 0:
		return timerRuns
	case count[1] != "0" && strings.Contains(registers, "HLT=1"):
		return timerLost
	}
	return timerUnknown
}
