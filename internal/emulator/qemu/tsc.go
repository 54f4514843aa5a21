package qemu

import (
	"time"

	"golang.org/x/sys/unix"
)

// readTSC reads the CPU's time stamp counter, which is what a guest under TCG sees as its own.
func readTSC() uint64

// tscWindow is the shortest time over which the counter is measured: reading both clocks is good to some 50 ns, so the
// guest's clock is right to 5 ppm.
const tscWindow = 20 * time.Millisecond

// tscMeter measures the counter's rate from its making on.
type tscMeter struct{ tsc, nanos uint64 }

func newTSCMeter() tscMeter {
	tsc, nanos := bothClocks()
	return tscMeter{tsc, nanos}
}

// kHz waits until tscWindow has passed since the meter was made.
func (m tscMeter) kHz() uint64 {
	for {
		tsc, nanos := bothClocks()
		passed := nanos - m.nanos
		if wait := tscWindow - time.Duration(passed); wait > 0 {
			time.Sleep(wait)
			continue
		}
		// Rounded; the difference of counters fits 43 bits for an hour, so the product fits 64.
		return uint64((float64(tsc-m.tsc)*1e6)/float64(passed) + 0.5)
	}
}

// bothClocks reads the counter and the raw monotonic clock, which NTP does not bend, as closely together as it can.
func bothClocks() (tsc, nanos uint64) {
	best := ^uint64(0)
	for range 8 {
		var ts unix.Timespec
		before := readTSC()
		if unix.ClockGettime(unix.CLOCK_MONOTONIC_RAW, &ts) != nil {
			continue
		}
		after := readTSC()
		if after-before < best {
			best = after - before
			tsc, nanos = before+best/2, uint64(ts.Nano())
		}
	}
	return tsc, nanos
}
