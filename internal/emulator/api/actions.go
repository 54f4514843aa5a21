package api

import (
	"context"
	"os"
	"slices"
	"strings"
	"syscall"
)

// maxVCPUs is Firecracker's MAX_SUPPORTED_VCPUS.
const maxVCPUs = 32

func getInfo(_ context.Context, v *VMM) (any, error) {
	return instanceInfo{ID: v.opts.ID, State: v.state, VMMVersion: Version, AppName: "Firecracker"}, nil
}

func getVersion(context.Context, *VMM) (any, error) {
	return map[string]string{"firecracker_version": Version}, nil
}

func getMachineConfig(_ context.Context, v *VMM) (any, error) { return v.config.machine, nil }

func getFullConfig(_ context.Context, v *VMM) (any, error) {
	c := &v.config
	full := fullConfig{
		Drives:        append([]Drive{}, c.drives...),
		MachineConfig: c.machine,
		NICs:          []NIC{},
		Entropy:       c.entropy,
		Pmem:          []any{},
	}
	if c.boot != nil {
		full.BootSource = *c.boot
	}
	for _, n := range c.nics {
		full.NICs = append(full.NICs, n.NIC)
	}
	if c.vsock != nil {
		full.Vsock = &Vsock{GuestCID: c.vsock.GuestCID, UDSPath: c.vsock.UDSPath}
	}
	return full, nil
}

func putBootSource(b *BootSource) step {
	return func(_ context.Context, v *VMM) (any, error) {
		if err := readable(b.KernelImagePath); err != nil {
			return nil, faultf("Boot source error: The kernel file cannot be opened: %s", rustError(err))
		}
		if b.InitrdPath != nil {
			if err := readable(*b.InitrdPath); err != nil {
				return nil, faultf("Boot source error: The initrd file cannot be opened due to invalid path or "+
					"invalid permissions. %s", rustError(err))
			}
		}
		// One byte of the room is for the final zero.
		if b.BootArgs != nil && len(*b.BootArgs)+1 > MaxCmdline {
			return nil, faultf("Boot source error: The kernel command line is invalid: Invalid cmdline capacity provided.")
		}
		v.config.boot = b
		return nil, nil
	}
}

func readable(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return f.Close()
}

func updateMachine(m MachineConfigPatch) step {
	return func(_ context.Context, v *VMM) (any, error) {
		c := v.config.machine
		set(&c.VCPUCount, m.VCPUCount)
		set(&c.SMT, m.SMT)
		set(&c.MemSizeMiB, m.MemSizeMiB)
		set(&c.HugePages, m.HugePages)
		set(&c.TrackDirtyPages, m.TrackDirtyPages)
		if c.VCPUCount == 0 || c.VCPUCount > maxVCPUs || c.SMT && c.VCPUCount > 1 && c.VCPUCount%2 == 1 {
			return nil, faultf("Machine config error: The number of vCPUs must be greater than 0, less than %d and must be "+
				"1 or an even number if SMT is enabled.", maxVCPUs)
		}
		if c.MemSizeMiB == 0 || c.HugePages == "2M" && c.MemSizeMiB%2 != 0 {
			return nil, faultf("Machine config error: The memory size (MiB) is either 0, or not a multiple of the " +
				"configured page size.")
		}
		switch {
		case m.CPUTemplate != nil && *m.CPUTemplate != "None":
			return nil, unsupported("CPU templates (cpu_template)")
		case c.HugePages != "None":
			return nil, unsupported("huge pages (huge_pages)")
		case c.TrackDirtyPages:
			return nil, unsupported("dirty page tracking (track_dirty_pages)")
		}
		v.config.machine = c
		return nil, nil
	}
}

func set[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}

func putDrive(d *Drive) step {
	return func(_ context.Context, v *VMM) (any, error) {
		c := &v.config
		at := slices.IndexFunc(c.drives, func(o Drive) bool { return o.DriveID == d.DriveID })
		if hasRoot := len(c.drives) > 0 && c.drives[0].IsRootDevice; d.IsRootDevice && hasRoot && at != 0 {
			return nil, faultf("Drive config error: A root block device already exists!")
		}
		const prefix = "Drive config error: Unable to create the virtio block device: "
		switch {
		case d.PathOnHost == nil && d.Socket != nil && d.IsReadOnly == nil && d.RateLimiter == nil && d.IOEngine == nil:
			return nil, unsupported("vhost-user block devices (socket)")
		case d.PathOnHost == nil || d.Socket != nil:
			return nil, faultf(prefix + "Invalid block config.")
		}
		no, sync := false, "Sync"
		if d.IsReadOnly == nil {
			d.IsReadOnly = &no
		}
		if d.IOEngine == nil {
			d.IOEngine = &sync
		}
		if err := openDrive(*d.PathOnHost, *d.IsReadOnly); err != nil {
			return nil, faultf(prefix+"Virtio backend error: %s", err)
		}
		if d.RateLimiter.limits() {
			return nil, unsupported("rate limits (rate_limiter)")
		}
		d.RateLimiter = nil
		switch {
		case at >= 0:
			c.drives[at] = *d
			if d.IsRootDevice {
				c.drives[0], c.drives[at] = c.drives[at], c.drives[0]
			}
		case d.IsRootDevice:
			c.drives = slices.Insert(c.drives, 0, *d)
		default:
			c.drives = append(c.drives, *d)
		}
		return nil, nil
	}
}

// openDrive checks that a drive's file can be used, in Firecracker's words for what is wrong.
func openDrive(path string, readOnly bool) error {
	mode := os.O_RDWR
	if readOnly {
		mode = os.O_RDONLY
	}
	f, err := os.OpenFile(path, mode, 0)
	if err != nil {
		return faultf("Error manipulating the backing file: %s %s", rustError(err), path)
	}
	defer f.Close()
	info, err := f.Stat()
	if err == nil && info.Mode()&(os.ModeNamedPipe|os.ModeSocket|os.ModeCharDevice) != 0 {
		err = syscall.ESPIPE
	}
	if err != nil {
		return faultf("Error manipulating the backing file: %s %s", rustError(err), path)
	}
	return nil
}

func patchDrive(p *DrivePatch) step {
	return func(ctx context.Context, v *VMM) (any, error) {
		const prefix = "Drive config error: Unable to patch the block device: "
		const suffix = " Please verify the request arguments."
		at := slices.IndexFunc(v.config.drives, func(o Drive) bool { return o.DriveID == p.DriveID })
		switch {
		case at < 0:
			return nil, faultf(prefix + "Failed perform action on device: Device not found" + suffix)
		case p.PathOnHost == nil && p.RateLimiter == nil:
			return nil, faultf(prefix + "Block: Running method expected different backend." + suffix)
		case p.RateLimiter.limits():
			return nil, unsupported("rate limits (rate_limiter)")
		case p.PathOnHost == nil:
			return nil, nil // a limiter that limits nothing, on a drive that has none
		}
		d := v.config.drives[at]
		d.PathOnHost = p.PathOnHost
		if err := openDrive(*d.PathOnHost, *d.IsReadOnly); err != nil {
			return nil, faultf(prefix+"Block: Virtio backend error: %s"+suffix, err)
		}
		if err := v.machine.ReplaceDrive(ctx, d); err != nil {
			return nil, faultf(prefix+"%v"+suffix, err)
		}
		v.config.drives[at] = d
		return nil, nil
	}
}

func putNIC(n *NIC) step {
	return func(_ context.Context, v *VMM) (any, error) {
		c := &v.config
		if n.GuestMAC != nil {
			*n.GuestMAC = strings.ToLower(*n.GuestMAC)
			for _, o := range c.nics {
				if o.GuestMAC != nil && *o.GuestMAC == *n.GuestMAC && o.IfaceID != n.IfaceID {
					return nil, faultf("Network config error: The MAC address is already in use: %s", *n.GuestMAC)
				}
			}
		}
		if n.RxRateLimiter.limits() || n.TxRateLimiter.limits() {
			return nil, unsupported("rate limits (rx_rate_limiter, tx_rate_limiter)")
		}
		n.RxRateLimiter, n.TxRateLimiter = nil, nil
		if at := slices.IndexFunc(c.nics, func(o NICSpec) bool { return o.IfaceID == n.IfaceID }); at >= 0 {
			_ = c.nics[at].Tap.Close() // a TAP has nothing to lose before boot
			// Firecracker's swap_remove: the last interface takes the place.
			last := len(c.nics) - 1
			c.nics[at] = c.nics[last]
			c.nics = c.nics[:last]
		}
		const prefix = "Network config error: Could not create the network device: "
		tap, name, err := openTap(n.HostDevName)
		if err != nil {
			return nil, faultf(prefix+"Open tap device failed: %v", err)
		}
		if n.MTU != nil && *n.MTU < 68 {
			_ = tap.Close()
			return nil, faultf(prefix+"MTU %d is out of range [68, 65535]", *n.MTU)
		}
		n.HostDevName = name
		c.nics = append(c.nics, NICSpec{NIC: *n, Tap: tap})
		return nil, nil
	}
}

func patchNIC(p *NICPatch) step {
	return func(_ context.Context, v *VMM) (any, error) {
		if !slices.ContainsFunc(v.config.nics, func(o NICSpec) bool { return o.IfaceID == p.IfaceID }) {
			return nil, faultf("Network config error: Unable to update the net device: " +
				"Failed perform action on device: Device not found")
		}
		if p.RxRateLimiter.limits() || p.TxRateLimiter.limits() {
			return nil, unsupported("rate limits (rx_rate_limiter, tx_rate_limiter)")
		}
		return nil, nil
	}
}

// longestSocketPath is what fits into struct sockaddr_un before its final zero, in bytes.
const longestSocketPath = 107

func putVsock(s *Vsock) step {
	return func(_ context.Context, v *VMM) (any, error) {
		const prefix = "Vsock config error: Cannot create backend for vsock device: "
		c := &v.config
		if c.vsock != nil {
			old, device := c.vsock, c.vsockAt
			c.vsock, c.vsockAt = nil, nil
			if err := os.Remove(old.UDSPath); err != nil {
				closeLogged(device, "vsock", v.opts.Log.Logger())
				return nil, faultf(prefix+"Error binding to the host-side Unix socket: %s", rustError(err))
			}
			closeLogged(device, "vsock", v.opts.Log.Logger())
		}
		if len(s.UDSPath) > longestSocketPath {
			return nil, faultf(prefix + "Error binding to the host-side Unix socket: path must be shorter than SUN_LEN")
		}
		device, err := v.opts.ListenVsock(s.GuestCID, s.UDSPath)
		if err != nil {
			return nil, faultf(prefix+"Error binding to the host-side Unix socket: %s", rustError(err))
		}
		c.vsock, c.vsockAt = s, device
		return nil, nil
	}
}

func putEntropy(e *Entropy) step {
	return func(_ context.Context, v *VMM) (any, error) {
		if e.RateLimiter.limits() {
			return nil, unsupported("rate limits (rate_limiter)")
		}
		v.config.entropy = &Entropy{}
		return nil, nil
	}
}

func putSerial(s *Serial) step {
	return func(_ context.Context, v *VMM) (any, error) {
		if s.RateLimiter.limits() {
			return nil, unsupported("rate limits (rate_limiter)")
		}
		v.config.serial = *s
		return nil, nil
	}
}

func putLogger(l *Logger) step {
	return func(_ context.Context, v *VMM) (any, error) {
		if err := v.opts.Log.Update(*l); err != nil {
			return nil, faultf("Logger error: Failed to open target file: %s", rustError(err))
		}
		return nil, nil
	}
}

func putMetrics(m *Metrics) step {
	return func(_ context.Context, v *VMM) (any, error) {
		if err := v.opts.Metrics.Open(m.Path); err != nil {
			return nil, faultf("Metrics error: Cannot initialize the metrics system due to bad user input: %s", rustError(err))
		}
		return nil, nil
	}
}

func flushMetrics(_ context.Context, v *VMM) (any, error) {
	if err := v.opts.Metrics.Flush(); err != nil {
		return nil, faultf("Internal VMM error: Metrics error: %v", err)
	}
	return nil, nil
}

func sendCtrlAltDel(ctx context.Context, v *VMM) (any, error) {
	if err := v.machine.CtrlAltDel(ctx); err != nil {
		return nil, faultf("Internal VMM error: I8042 error: %v", err)
	}
	return nil, nil
}

func pause(ctx context.Context, v *VMM) (any, error) {
	if err := v.machine.Pause(ctx); err != nil {
		return nil, faultf("Internal VMM error: Failed to pause the vCPUs. %v", err)
	}
	v.state = statePaused
	return nil, nil
}

func resume(ctx context.Context, v *VMM) (any, error) {
	if err := v.machine.Resume(ctx); err != nil {
		return nil, faultf("Internal VMM error: Failed to resume the vCPUs. %v", err)
	}
	v.state = stateRunning
	return nil, nil
}
