package qemu

import (
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/runcvm/runcvm/internal/kvm"
)

// chooseAccelerator says how guests run, in the background: an interpreted KVM takes its time to show what it is.
func chooseAccelerator(configured string, log *slog.Logger) func() string {
	if configured != accelAuto {
		return func() string { return configured }
	}
	result := make(chan error, 1)
	go func() {
		took, err := kvm.Probe()
		if err == nil && took >= kvm.Slow {
			err = fmt.Errorf("a probing guest takes %v", took.Round(time.Microsecond))
		}
		result <- err
	}()
	return sync.OnceValue(func() string {
		if err := <-result; err != nil {
			log.Info("QEMU emulates: KVM runs no guest here", "reason", err)
			return accelTCG
		}
		log.Info("QEMU runs the guest by KVM")
		return accelKVM
	})
}
