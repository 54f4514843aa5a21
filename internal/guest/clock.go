package guest

import (
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// stepAbove is the offset from which the clock is stepped: slewing it would take longer than anybody waits.
	stepAbove = 500 * time.Millisecond
	// ignoreBelow is what the way from the host to here may cost: correcting less would only add noise.
	ignoreBelow = 2 * time.Millisecond
	// slewRate is how fast the clock is slewed, as a part of real time: 500 ms in 10 s. The kernel takes up to 0.1
	// (ADJ_TICK, adjtimex(2)).
	slewRate = 0.05
	// userTick is the length of a tick in microseconds at USER_HZ 100, which ADJ_TICK counts in.
	userTick = 10_000
)

// clock corrects CLOCK_REALTIME.
type clock struct {
	mu sync.Mutex
	// restore ends the slewing that is under way.
	restore *time.Timer
}

// set steps the clock to the host's time.
func (c *clock) set(hostNanos int64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.stopSlewing(); err != nil {
		return err
	}
	ts := unix.NsecToTimespec(hostNanos)
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &ts); err != nil {
		return fmt.Errorf("set the clock: %w", err)
	}
	return nil
}

// sync measures the guest's clock against the host's time and corrects it: a large offset at once, a small one by running faster
// or slower for a while, so that time in containers never jumps back. While nobody sees it jump it is always set at once.
func (c *clock) sync(hostNanos int64, seen bool) (offset time.Duration, err error) {
	offset = time.Duration(time.Now().UnixNano() - hostNanos)
	if offset.Abs() > stepAbove || !seen && offset.Abs() >= ignoreBelow {
		return offset, c.set(hostNanos)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.stopSlewing(); err != nil || offset.Abs() < ignoreBelow {
		return offset, err
	}
	tick := int64(userTick * (1 + slewRate))
	if offset > 0 {
		tick = int64(userTick * (1 - slewRate))
	}
	if err := setTick(tick); err != nil {
		return offset, err
	}
	var restore *time.Timer
	restore = time.AfterFunc(time.Duration(float64(offset.Abs())/slewRate), func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.restore != restore {
			return // a later correction has taken over
		}
		if err := c.stopSlewing(); err != nil {
			slog.Error("the clock keeps running at the wrong speed", "error", err)
		}
	})
	c.restore = restore
	return offset, nil
}

func (c *clock) stopSlewing() error {
	if c.restore == nil {
		return nil
	}
	c.restore.Stop()
	c.restore = nil
	return setTick(userTick)
}

func setTick(micros int64) error {
	if _, err := unix.Adjtimex(&unix.Timex{Modes: unix.ADJ_TICK, Tick: micros}); err != nil {
		return fmt.Errorf("slew the clock: %w", err)
	}
	return nil
}
