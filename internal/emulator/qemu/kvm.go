package qemu

// accelerator chooses how the guest runs.
func (l *Launcher) accelerator() string {
	if l.Accel == accelKVM {
		return accelKVM
	}
	return accelTCG
}
