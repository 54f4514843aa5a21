package api

import (
	"context"
	"net/http"

	"github.com/runcvm/runcvm/internal/emulator/api/serde"
)

// What Firecracker answers about devices that the guest does not have, and here never has.
var (
	errNoDevice = faultf("Internal VMM error: Failed perform action on device: Device not found")
	errNoPCI    = faultf("PCI is not enabled")
)

var (
	noBalloon   = unsupported("balloon device")
	noSnapshots = unsupported("snapshots")
	noMMDS      = unsupported("metadata service (MMDS)")
	noPmem      = unsupported("pmem devices")
	noHotplug   = unsupported("memory hotplug")
	noCPUConfig = unsupported("CPU templates (cpu-config)")
)

var errNoBalloonUpdate = faultf("Balloon update error: Failed perform action on device: Device not found")

// refused decodes a body that is refused in the end, so that its faults are told apart from that.
func refused(body []byte, value serde.Value, a action) (action, error) {
	return decode(body, func(*struct{}) serde.Value { return value }, func(*struct{}) action { return a })
}

// noMMDSAction is the metadata service's: before boot it would exist, after boot a guest without one has none.
func noMMDSAction() action {
	return action{before: refuse(noMMDS), after: refuse(faultf("MMDS error: The MMDS data store is not initialized."))}
}

func balloonConfig() serde.Value {
	return serde.Struct("BalloonDeviceConfig",
		serde.Required("amount_mib", serde.Unsigned(new(uint32), "u32")),
		serde.Required("deflate_on_oom", serde.Bool(new(bool))),
		serde.Default("stats_polling_interval_s", serde.Unsigned(new(uint16), "u16")),
		serde.Default("free_page_hinting", serde.Bool(new(bool))),
		serde.Default("free_page_reporting", serde.Bool(new(bool))))
}

func hotplugConfig() serde.Value {
	return serde.Struct("MemoryHotplugConfig",
		serde.Required("total_size_mib", serde.Unsigned(new(uint64), "usize")),
		serde.Default("block_size_mib", serde.Unsigned(new(uint64), "usize")),
		serde.Default("slot_size_mib", serde.Unsigned(new(uint64), "usize")))
}

func mmdsConfig(version *string) serde.Value {
	return serde.Struct("MmdsConfig",
		serde.Default("version", serde.Variant(version, "V1", "V2")),
		serde.Required("network_interfaces", serde.Seq(new([]string), serde.String)),
		serde.Optional("ipv4_address", new(*string), serde.String),
		serde.Default("imds_compat", serde.Bool(new(bool))))
}

func snapshotCreate() serde.Value {
	return serde.Struct("CreateSnapshotParams",
		serde.Default("snapshot_type", serde.Variant(new(string), "Diff", "Full")),
		serde.Required("snapshot_path", serde.Path(new(string))),
		serde.Required("mem_file_path", serde.Path(new(string))))
}

func snapshotLoad() serde.Value {
	backend := func(*struct{}) serde.Value {
		return serde.Struct("MemBackendConfig",
			serde.Required("backend_path", serde.Path(new(string))),
			serde.Required("backend_type", serde.Variant(new(string), "File", "Uffd")))
	}
	return serde.Struct("LoadSnapshotConfig",
		serde.Required("snapshot_path", serde.Path(new(string))),
		serde.Optional("mem_file_path", new(*string), serde.Path),
		serde.Optional("mem_backend", new(*struct{}), backend),
		serde.Default("enable_diff_snapshots", serde.Bool(new(bool))),
		serde.Default("track_dirty_pages", serde.Bool(new(bool))),
		serde.Default("resume_vm", serde.Bool(new(bool))),
		serde.Default("network_overrides", serde.Any()),
		serde.Optional("vsock_override", new(*struct{}), ignored),
		serde.Default("clock_realtime", serde.Bool(new(bool))))
}

// pmem is the body of PUT /pmem/{id}, and with only its first and last field of PATCH.
type pmem struct {
	id      string
	limiter *RateLimiter
}

func (p *pmem) value() serde.Value {
	return serde.Struct("PmemConfig",
		serde.Required("id", serde.String(&p.id)),
		serde.Required("path_on_host", serde.String(new(string))),
		serde.Default("root_device", serde.Bool(new(bool))),
		serde.Default("read_only", serde.Bool(new(bool))),
		serde.Optional("rate_limiter", &p.limiter, (*RateLimiter).value))
}

func (p *pmem) patchValue() serde.Value {
	return serde.Struct("PmemDeviceUpdateConfig",
		serde.Required("id", serde.String(&p.id)),
		serde.Optional("rate_limiter", &p.limiter, (*RateLimiter).value))
}

// parsePutUnsupported keeps Firecracker's order rules and field checks for what is refused.
func parsePutUnsupported(first string, rest tokens, body []byte, invalid error) (action, error) {
	second, _ := rest.next()
	switch {
	case first == "balloon":
		return refused(body, balloonConfig(), preBoot(refuse(noBalloon)))
	case first == "cpu-config":
		return refused(body, serde.Any(), preBoot(refuse(noCPUConfig)))
	case first == "pmem":
		return parsePmem(second, body, (*pmem).value, func(*pmem) action {
			return action{before: refuse(noPmem), after: refuse(errNoPCI)}
		})
	case first == "mmds":
		return parsePutMMDS(second, body)
	case first == "snapshot":
		return parsePutSnapshot(second, body)
	case first == "hotplug" && second == "memory":
		return refused(body, hotplugConfig(), preBoot(refuse(noHotplug)))
	}
	return action{}, invalid
}

func parsePutMMDS(second string, body []byte) (action, error) {
	switch second {
	case "":
		return refused(body, serde.Any(), noMMDSAction())
	case "config":
		version := "V1"
		a, err := refused(body, mmdsConfig(&version), preBoot(refuse(noMMDS)))
		if err == nil && version == "V1" {
			a.deprecated = "PUT /mmds/config: V1 is deprecated. Use V2 instead."
		}
		return a, err
	}
	return action{}, faultf("Unrecognized PUT request path `%s`.", second)
}

func parsePutSnapshot(second string, body []byte) (action, error) {
	switch second {
	case "":
		return action{}, faultf("Missing snapshot operation type.")
	case "create":
		return refused(body, snapshotCreate(), postBoot(func(_ context.Context, v *VMM) (any, error) {
			if v.state == stateRunning {
				return nil, faultf("Create snapshot error: Cannot save the microVM state: Operation not allowed: " +
					"save/restore unavailable while running")
			}
			return nil, noSnapshots
		}))
	case "load":
		return refused(body, snapshotLoad(), preBoot(refuse(noSnapshots)))
	}
	return action{}, faultf("Invalid request method and/or path: %s /snapshot/%s.", http.MethodPut, second)
}

func parsePmem(id string, body []byte, value func(*pmem) serde.Value, then func(*pmem) action) (action, error) {
	rest := splitPath(id)
	id, err := resourceID(&rest)
	if err != nil {
		return action{}, err
	}
	var p *pmem
	a, err := decode(body, value, func(got *pmem) action { p = got; return then(got) })
	if err == nil && p.id != id {
		err = faultf("The id from the path does not match the id from the body!")
	}
	return a, err
}

func parsePatchUnsupported(first string, rest tokens, body []byte, invalid error) (action, error) {
	second, _ := rest.next()
	switch {
	case first == "mmds":
		return refused(body, serde.Any(), noMMDSAction())
	case first == "pmem":
		return parsePmem(second, body, (*pmem).patchValue, func(p *pmem) action {
			if p.limiter == nil {
				// Firecracker looks for the device only when there is something to change.
				return postBoot(func(context.Context, *VMM) (any, error) { return nil, nil })
			}
			return postBoot(refuse(faultf("Pmem config error: Unable to patch the pmem device: " +
				"Failed perform action on device: Device not found Please verify the request arguments.")))
		})
	case first == "hotplug" && second == "memory":
		size := serde.Struct("MemoryHotplugSizeUpdate",
			serde.Required("requested_size_mib", serde.Unsigned(new(uint64), "usize")))
		return refused(body, size, postBoot(refuse(
			faultf("Memory hotplug update error: Failed perform action on device: Device not found"))))
	}
	return action{}, invalid
}

func parseDelete(first string, rest tokens, invalid error) (action, error) {
	switch first {
	case "drives", "pmem", "network-interfaces":
		if _, err := resourceID(&rest); err != nil {
			return action{}, err
		}
		return postBoot(refuse(errNoPCI)), nil
	}
	return action{}, invalid
}

func parseGetBalloon(second string, rest tokens) (action, error) {
	third, _ := rest.next()
	switch {
	case second == "":
		return action{
			before: refuse(faultf("Balloon config error: No balloon device found.")),
			after:  refuse(errNoDevice),
		}, nil
	case second == "statistics":
		return postBoot(refuse(errNoDevice)), nil
	case second == "hinting" && third == "status":
		return postBoot(refuse(errNoBalloonUpdate)), nil
	case second == "hinting":
		return action{}, faultf("Unrecognized GET request path `/hinting/%s`.", third)
	}
	return action{}, faultf("Unrecognized GET request path `%s`.", second)
}

func parsePatchBalloon(rest tokens, body []byte) (action, error) {
	second, _ := rest.next()
	third, _ := rest.next()
	noDevice := postBoot(refuse(errNoBalloonUpdate))
	switch {
	case second == "hinting" && third == "start" && len(body) == 0, second == "hinting" && third == "stop":
		return noDevice, nil
	case second == "hinting" && third == "start":
		return refused(body, serde.Lenient("StartHintingCmd", serde.Default("acknowledge_on_stop", serde.Bool(new(bool)))), noDevice)
	case second == "hinting":
		return action{}, faultf("Unrecognized PATCH request path `/hinting/%s`.", third)
	case body == nil:
		return action{}, faultf("Empty PATCH request.")
	case second == "statistics":
		return refused(body, serde.Struct("BalloonUpdateStatsConfig",
			serde.Required("stats_polling_interval_s", serde.Unsigned(new(uint16), "u16"))), noDevice)
	}
	return refused(body, serde.Struct("BalloonUpdateConfig",
		serde.Required("amount_mib", serde.Unsigned(new(uint32), "u32"))), noDevice)
}
