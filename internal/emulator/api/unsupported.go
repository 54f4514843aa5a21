package api

import (
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

// anyJSON checks no more than that the body is JSON: what it says does not matter, for it is refused.
func anyJSON(body []byte, a action) (action, error) {
	value := func(*struct{}) serde.Value { return serde.Any() }
	return decode(body, value, func(*struct{}) action { return a })
}

// parsePutUnsupported keeps Firecracker's order rules for what is refused.
func parsePutUnsupported(first string, rest tokens, body []byte, invalid error) (action, error) {
	second, has := rest.next()
	switch {
	case first == "balloon":
		return anyJSON(body, preBoot(refuse(noBalloon)))
	case first == "cpu-config":
		return anyJSON(body, preBoot(refuse(noCPUConfig)))
	case first == "pmem":
		rest = splitPath(second)
		if _, err := resourceID(&rest); err != nil {
			return action{}, err
		}
		return anyJSON(body, action{before: refuse(noPmem), after: refuse(errNoPCI)})
	case first == "mmds" && !has:
		return anyJSON(body, always(refuse(noMMDS)))
	case first == "mmds" && second == "config":
		return anyJSON(body, preBoot(refuse(noMMDS)))
	case first == "mmds":
		return action{}, faultf("Unrecognized PUT request path `%s`.", second)
	case first == "snapshot" && !has:
		return action{}, faultf("Missing snapshot operation type.")
	case first == "snapshot" && second == "create":
		return anyJSON(body, postBoot(refuse(noSnapshots)))
	case first == "snapshot" && second == "load":
		return anyJSON(body, preBoot(refuse(noSnapshots)))
	case first == "snapshot":
		return action{}, faultf("Invalid request method and/or path: %s /snapshot/%s.", http.MethodPut, second)
	case first == "hotplug" && second == "memory":
		return anyJSON(body, preBoot(refuse(noHotplug)))
	}
	return action{}, invalid
}

func parsePatchUnsupported(first string, rest tokens, body []byte, invalid error) (action, error) {
	second, _ := rest.next()
	switch {
	case first == "mmds":
		return anyJSON(body, always(refuse(noMMDS)))
	case first == "pmem":
		rest = splitPath(second)
		if _, err := resourceID(&rest); err != nil {
			return action{}, err
		}
		return anyJSON(body, postBoot(refuse(
			faultf("Pmem config error: Unable to patch the pmem device: %s Please verify the request arguments.",
				"Failed perform action on device: Device not found"))))
	case first == "hotplug" && second == "memory":
		return anyJSON(body, postBoot(refuse(
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

var errNoBalloonUpdate = faultf("Balloon update error: Failed perform action on device: Device not found")

func parsePatchBalloon(rest tokens, body []byte) (action, error) {
	second, _ := rest.next()
	third, _ := rest.next()
	refused := postBoot(refuse(errNoBalloonUpdate))
	switch {
	case second == "hinting" && third == "start" && len(body) == 0, second == "hinting" && third == "stop":
		return refused, nil
	case second == "hinting" && third == "start":
		return anyJSON(body, refused)
	case second == "hinting":
		return action{}, faultf("Unrecognized PATCH request path `/hinting/%s`.", third)
	case body == nil:
		return action{}, faultf("Empty PATCH request.")
	}
	value := func(n *uint32) serde.Value {
		return serde.Struct("BalloonUpdateConfig", serde.Required("amount_mib", serde.Unsigned(n, "u32")))
	}
	if second == "statistics" {
		value = func(n *uint32) serde.Value {
			return serde.Struct("BalloonUpdateStatsConfig", serde.Required("stats_polling_interval_s", serde.Unsigned(n, "u16")))
		}
	}
	return decode(body, value, func(*uint32) action { return refused })
}
