package api

import (
	"regexp"
	"slices"
	"strings"

	"github.com/runcvm/runcvm/internal/emulator/api/serde"
)

// BootSource is the body of PUT /boot-source.
type BootSource struct {
	KernelImagePath string  `json:"kernel_image_path"`
	InitrdPath      *string `json:"initrd_path"`
	BootArgs        *string `json:"boot_args"`
}

func (b *BootSource) value() serde.Value {
	return serde.Struct("BootSourceConfig",
		serde.Required("kernel_image_path", serde.String(&b.KernelImagePath)),
		serde.Optional("initrd_path", &b.InitrdPath, serde.String),
		serde.Optional("boot_args", &b.BootArgs, serde.String))
}

// TokenBucket is one half of a rate limiter: size tokens every refill_time milliseconds.
type TokenBucket struct {
	Size         uint64  `json:"size"`
	OneTimeBurst *uint64 `json:"one_time_burst"`
	RefillTime   uint64  `json:"refill_time"`
}

func u64(p *uint64) serde.Value { return serde.Unsigned(p, "u64") }

func (t *TokenBucket) value() serde.Value {
	return serde.Lenient("TokenBucketConfig",
		serde.Required("size", u64(&t.Size)),
		serde.Optional("one_time_burst", &t.OneTimeBurst, u64),
		serde.Required("refill_time", u64(&t.RefillTime)))
}

// limits tells whether the bucket limits anything: Firecracker ignores one without a size or a refill time.
func (t *TokenBucket) limits() bool { return t != nil && t.Size != 0 && t.RefillTime != 0 }

// RateLimiter bounds a device's bytes and operations.
type RateLimiter struct {
	Bandwidth *TokenBucket `json:"bandwidth"`
	Ops       *TokenBucket `json:"ops"`
}

func (r *RateLimiter) value() serde.Value {
	return serde.Struct("RateLimiterConfig",
		serde.Optional("bandwidth", &r.Bandwidth, (*TokenBucket).value),
		serde.Optional("ops", &r.Ops, (*TokenBucket).value))
}

func (r *RateLimiter) limits() bool { return r != nil && (r.Bandwidth.limits() || r.Ops.limits()) }

// Drive is the body of PUT /drives/{id}.
type Drive struct {
	DriveID      string       `json:"drive_id"`
	PartUUID     *string      `json:"partuuid"`
	IsRootDevice bool         `json:"is_root_device"`
	CacheType    string       `json:"cache_type"`
	IsReadOnly   *bool        `json:"is_read_only"`
	PathOnHost   *string      `json:"path_on_host"`
	RateLimiter  *RateLimiter `json:"rate_limiter"`
	IOEngine     *string      `json:"io_engine"`
	Socket       *string      `json:"socket"`
}

func (d *Drive) value() serde.Value {
	d.CacheType = "Unsafe"
	engine := func(p *string) serde.Value { return serde.Variant(p, "Async", "Sync") }
	return serde.Struct("BlockDeviceConfig",
		serde.Required("drive_id", serde.String(&d.DriveID)),
		serde.Optional("partuuid", &d.PartUUID, serde.String),
		serde.Required("is_root_device", serde.Bool(&d.IsRootDevice)),
		serde.Default("cache_type", serde.Variant(&d.CacheType, "Unsafe", "Writeback")),
		serde.Optional("is_read_only", &d.IsReadOnly, serde.Bool),
		serde.Optional("path_on_host", &d.PathOnHost, serde.String),
		serde.Optional("rate_limiter", &d.RateLimiter, (*RateLimiter).value),
		serde.Optional("io_engine", &d.IOEngine, engine),
		serde.Optional("socket", &d.Socket, serde.String))
}

// DrivePatch is the body of PATCH /drives/{id}.
type DrivePatch struct {
	DriveID     string
	PathOnHost  *string
	RateLimiter *RateLimiter
}

func (d *DrivePatch) value() serde.Value {
	return serde.Struct("BlockDeviceUpdateConfig",
		serde.Required("drive_id", serde.String(&d.DriveID)),
		serde.Optional("path_on_host", &d.PathOnHost, serde.String),
		serde.Optional("rate_limiter", &d.RateLimiter, (*RateLimiter).value))
}

// NIC is the body of PUT /network-interfaces/{id}.
type NIC struct {
	IfaceID       string       `json:"iface_id"`
	HostDevName   string       `json:"host_dev_name"`
	GuestMAC      *string      `json:"guest_mac"`
	MTU           *uint16      `json:"mtu"`
	RxRateLimiter *RateLimiter `json:"rx_rate_limiter"`
	TxRateLimiter *RateLimiter `json:"tx_rate_limiter"`
}

var macForm = regexp.MustCompile(`^([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}$`)

func mac(p *string) serde.Value {
	return serde.Checked(p, func(s string) string {
		if !macForm.MatchString(s) {
			return "The provided MAC address is invalid."
		}
		return ""
	})
}

func (n *NIC) value() serde.Value {
	mtu := func(p *uint16) serde.Value { return serde.Unsigned(p, "u16") }
	return serde.Struct("NetworkInterfaceConfig",
		serde.Required("iface_id", serde.String(&n.IfaceID)),
		serde.Required("host_dev_name", serde.String(&n.HostDevName)),
		serde.Optional("guest_mac", &n.GuestMAC, mac),
		serde.Optional("mtu", &n.MTU, mtu),
		serde.Optional("rx_rate_limiter", &n.RxRateLimiter, (*RateLimiter).value),
		serde.Optional("tx_rate_limiter", &n.TxRateLimiter, (*RateLimiter).value))
}

// NICPatch is the body of PATCH /network-interfaces/{id}.
type NICPatch struct {
	IfaceID                      string
	RxRateLimiter, TxRateLimiter *RateLimiter
}

func (n *NICPatch) value() serde.Value {
	return serde.Struct("NetworkInterfaceUpdateConfig",
		serde.Required("iface_id", serde.String(&n.IfaceID)),
		serde.Optional("rx_rate_limiter", &n.RxRateLimiter, (*RateLimiter).value),
		serde.Optional("tx_rate_limiter", &n.TxRateLimiter, (*RateLimiter).value))
}

// Vsock is the body of PUT /vsock.
type Vsock struct {
	VsockID  *string `json:"vsock_id,omitempty"`
	GuestCID uint32  `json:"guest_cid"`
	UDSPath  string  `json:"uds_path"`
}

func (v *Vsock) value() serde.Value {
	return serde.Struct("VsockDeviceConfig",
		serde.Optional("vsock_id", &v.VsockID, serde.String),
		serde.Required("guest_cid", serde.Unsigned(&v.GuestCID, "u32")),
		serde.Required("uds_path", serde.String(&v.UDSPath)))
}

// Entropy is the body of PUT /entropy.
type Entropy struct {
	RateLimiter *RateLimiter `json:"rate_limiter"`
}

func (e *Entropy) value() serde.Value {
	return serde.Struct("EntropyDeviceConfig", serde.Optional("rate_limiter", &e.RateLimiter, (*RateLimiter).value))
}

// Serial is the body of PUT /serial.
type Serial struct {
	OutPath     *string
	RateLimiter *TokenBucket
}

func (s *Serial) value() serde.Value {
	return serde.Struct("SerialConfig",
		serde.Optional("serial_out_path", &s.OutPath, serde.Path),
		serde.Optional("rate_limiter", &s.RateLimiter, (*TokenBucket).value))
}

// Logger is the body of PUT /logger.
type Logger struct {
	LogPath       *string
	Level         *string // lower case: off, trace, debug, info, warn, error
	ShowLevel     *bool
	ShowLogOrigin *bool
	Module        *string
}

// ParseLevel gives the canonical name of a log level, or false.
func ParseLevel(s string) (string, bool) {
	s = strings.ToLower(s)
	if s == "warning" {
		s = "warn"
	}
	return s, slices.Contains([]string{"off", "trace", "debug", "info", "warn", "error"}, s)
}

func (l *Logger) value() serde.Value {
	level := func(p *string) serde.Value {
		return serde.Checked(p, func(s string) string {
			canonical, ok := ParseLevel(s)
			if !ok {
				return "Invalid LevelFilter"
			}
			*p = canonical
			return ""
		})
	}
	return serde.Struct("LoggerConfig",
		serde.Optional("log_path", &l.LogPath, serde.Path),
		serde.Optional("level", &l.Level, level),
		serde.Optional("show_level", &l.ShowLevel, serde.Bool),
		serde.Optional("show_log_origin", &l.ShowLogOrigin, serde.Bool),
		serde.Optional("module", &l.Module, serde.String))
}

// Metrics is the body of PUT /metrics.
type Metrics struct{ Path string }

func (m *Metrics) value() serde.Value {
	return serde.Lenient("MetricsConfig", serde.Required("metrics_path", serde.Path(&m.Path)))
}

// MachineConfig is the body of PUT /machine-config. Sizes are in MiB.
type MachineConfig struct {
	VCPUCount       uint8   `json:"vcpu_count"`
	MemSizeMiB      uint64  `json:"mem_size_mib"`
	SMT             bool    `json:"smt"`
	CPUTemplate     *string `json:"cpu_template,omitempty"`
	TrackDirtyPages bool    `json:"track_dirty_pages"`
	HugePages       string  `json:"huge_pages"`
}

func cpuTemplate(p *string) serde.Value {
	return serde.Variant(p, "C3", "T2", "T2S", "None", "T2CL", "T2A")
}

func hugePages(p *string) serde.Value { return serde.Variant(p, "None", "2M") }

func (m *MachineConfig) value() serde.Value {
	m.HugePages = "None"
	return serde.Struct("MachineConfig",
		serde.Required("vcpu_count", serde.Unsigned(&m.VCPUCount, "u8")),
		serde.Required("mem_size_mib", serde.Unsigned(&m.MemSizeMiB, "usize")),
		serde.Default("smt", serde.Bool(&m.SMT)),
		serde.Default("cpu_template", serde.Option(&m.CPUTemplate, cpuTemplate)),
		serde.Default("track_dirty_pages", serde.Bool(&m.TrackDirtyPages)),
		serde.Default("huge_pages", hugePages(&m.HugePages)))
}

// MachineConfigPatch is the body of PATCH /machine-config.
type MachineConfigPatch struct {
	VCPUCount       *uint8
	MemSizeMiB      *uint64
	SMT             *bool
	CPUTemplate     *string
	TrackDirtyPages *bool
	HugePages       *string
}

func (m *MachineConfigPatch) value() serde.Value {
	vcpus := func(p *uint8) serde.Value { return serde.Unsigned(p, "u8") }
	size := func(p *uint64) serde.Value { return serde.Unsigned(p, "usize") }
	return serde.Struct("MachineConfigUpdate",
		serde.Default("vcpu_count", serde.Option(&m.VCPUCount, vcpus)),
		serde.Default("mem_size_mib", serde.Option(&m.MemSizeMiB, size)),
		serde.Default("smt", serde.Option(&m.SMT, serde.Bool)),
		serde.Default("cpu_template", serde.Option(&m.CPUTemplate, cpuTemplate)),
		serde.Default("track_dirty_pages", serde.Option(&m.TrackDirtyPages, serde.Bool)),
		serde.Default("huge_pages", serde.Option(&m.HugePages, hugePages)))
}

func (m *MachineConfig) patch() MachineConfigPatch {
	return MachineConfigPatch{&m.VCPUCount, &m.MemSizeMiB, &m.SMT, m.CPUTemplate, &m.TrackDirtyPages, &m.HugePages}
}

// instanceInfo is the answer to GET /.
type instanceInfo struct {
	ID         string `json:"id"`
	State      string `json:"state"`
	VMMVersion string `json:"vmm_version"`
	AppName    string `json:"app_name"`
}

// fullConfig is the answer to GET /vm/config.
type fullConfig struct {
	Balloon       any           `json:"balloon"`
	Drives        []Drive       `json:"drives"`
	BootSource    BootSource    `json:"boot-source"`
	CPUConfig     any           `json:"cpu-config"`
	Logger        any           `json:"logger"`
	MachineConfig MachineConfig `json:"machine-config"`
	Metrics       any           `json:"metrics"`
	MMDSConfig    any           `json:"mmds-config"`
	NICs          []NIC         `json:"network-interfaces"`
	Vsock         *Vsock        `json:"vsock"`
	Entropy       *Entropy      `json:"entropy"`
	Pmem          []any         `json:"pmem"`
	MemoryHotplug any           `json:"memory-hotplug"`
}
