package api

import (
	"context"
	"net/http"
	"strings"
	"unicode"

	"github.com/runcvm/runcvm/internal/emulator/api/serde"
)

// step does one request's work; the caller holds the VMM's turn. It returns what the answer's body holds, or nil.
type step func(ctx context.Context, v *VMM) (any, error)

// action is a request that has been understood: what it does before boot, and after.
type action struct {
	before, after step
	deprecated    string // why the answer carries a Deprecation header
}

func refuse(err error) step { return func(context.Context, *VMM) (any, error) { return nil, err } }

func preBoot(s step) action  { return action{before: s, after: refuse(errPostBoot)} }
func postBoot(s step) action { return action{before: refuse(errPreBoot), after: s} }
func always(s step) action   { return action{before: s, after: s} }

// tokens splits a path as Firecracker does: leading slashes off, then by slash, and a trailing one ends nothing.
type tokens []string

func splitPath(path string) tokens {
	path = strings.TrimLeft(path, "/")
	if path == "" {
		return nil
	}
	parts := strings.Split(path, "/")
	if parts[len(parts)-1] == "" {
		parts = parts[:len(parts)-1]
	}
	return parts
}

// next takes the first token; ok is false when there is none.
func (t *tokens) next() (token string, ok bool) {
	if len(*t) == 0 {
		return "", false
	}
	token, *t = (*t)[0], (*t)[1:]
	return token, true
}

// parse understands a request; body is nil when it has none.
func parse(method, path string, body []byte) (action, error) {
	rest := splitPath(path)
	first, _ := rest.next()
	invalid := faultf("Invalid request method and/or path: %s %s.", method, first)
	switch method {
	case http.MethodGet:
		if body != nil {
			return action{}, faultf("GET request cannot have a body.")
		}
		return parseGet(first, rest, invalid)
	case http.MethodPut:
		if body == nil {
			return action{}, faultf("Empty PUT request.")
		}
		return parsePut(first, rest, body, invalid)
	case http.MethodPatch:
		return parsePatch(first, rest, body, invalid)
	case http.MethodDelete:
		if body != nil {
			return action{}, faultf("Empty Delete request.")
		}
		return parseDelete(first, rest, invalid)
	}
	return action{}, invalid
}

func parseGet(first string, rest tokens, invalid error) (action, error) {
	second, _ := rest.next()
	switch {
	case first == "":
		return always(getInfo), nil
	case first == "version":
		return always(getVersion), nil
	case first == "machine-config":
		return always(getMachineConfig), nil
	case first == "vm" && second == "config":
		return always(getFullConfig), nil
	case first == "balloon":
		return parseGetBalloon(second, rest)
	case first == "mmds":
		return noMMDSAction(), nil
	case first == "hotplug" && second == "memory":
		return postBoot(refuse(errNoDevice)), nil
	}
	return action{}, invalid
}

func parsePut(first string, rest tokens, body []byte, invalid error) (action, error) {
	switch first {
	case "actions":
		return parseAction(body)
	case "boot-source":
		return decode(body, (*BootSource).value, func(b *BootSource) action { return preBoot(putBootSource(b)) })
	case "drives":
		return parsePutDrive(rest, body)
	case "network-interfaces":
		return parsePutNIC(rest, body)
	case "machine-config":
		return decode(body, (*MachineConfig).value, func(m *MachineConfig) action {
			a := preBoot(updateMachine(m.patch()))
			if m.CPUTemplate != nil {
				a.deprecated = "PUT /machine-config: cpu_template field is deprecated."
			}
			return a
		})
	case "vsock":
		return decode(body, (*Vsock).value, func(s *Vsock) action {
			a := preBoot(putVsock(s))
			if s.VsockID != nil {
				a.deprecated = "PUT /vsock: vsock_id field is deprecated."
			}
			return a
		})
	case "entropy":
		return decode(body, (*Entropy).value, func(e *Entropy) action { return preBoot(putEntropy(e)) })
	case "serial":
		return decode(body, (*Serial).value, func(s *Serial) action { return preBoot(putSerial(s)) })
	case "logger":
		return decode(body, (*Logger).value, func(l *Logger) action { return preBoot(putLogger(l)) })
	case "metrics":
		return decode(body, (*Metrics).value, func(m *Metrics) action { return preBoot(putMetrics(m)) })
	}
	return parsePutUnsupported(first, rest, body, invalid)
}

func parsePatch(first string, rest tokens, body []byte, invalid error) (action, error) {
	if first == "balloon" {
		return parsePatchBalloon(rest, body)
	}
	if body == nil {
		return action{}, faultf("Empty PATCH request.")
	}
	switch first {
	case "drives":
		return parsePatchDrive(rest, body)
	case "network-interfaces":
		return parsePatchNIC(rest, body)
	case "machine-config":
		return parsePatchMachine(body)
	case "vm":
		return parsePatchVM(body)
	}
	return parsePatchUnsupported(first, rest, body, invalid)
}

// decode reads body into a T and makes the action of it.
func decode[T any](body []byte, value func(*T) serde.Value, then func(*T) action) (action, error) {
	t := new(T)
	if err := serde.Unmarshal(body, value(t)); err != nil {
		return action{}, faultf("An error occurred when deserializing the json body of a request: %v.", err)
	}
	return then(t), nil
}

// resourceID takes the id from the path and checks it.
func resourceID(rest *tokens) (string, error) {
	id, ok := rest.next()
	if !ok || id == "" {
		return "", faultf("The ID cannot be empty.")
	}
	for _, r := range id {
		if r != '_' && !unicode.IsLetter(r) && !unicode.IsNumber(r) {
			return "", faultf("API Resource IDs can only contain alphanumeric characters and underscores.")
		}
	}
	return id, nil
}

func parsePutDrive(rest tokens, body []byte) (action, error) {
	id, err := resourceID(&rest)
	if err != nil {
		return action{}, err
	}
	var d *Drive
	a, err := decode(body, (*Drive).value, func(got *Drive) action {
		d = got
		return action{before: putDrive(got), after: refuse(errNoPCI)}
	})
	if err == nil && d.DriveID != id {
		err = faultf("The id from the path does not match the id from the body!")
	}
	return a, err
}

func parsePatchDrive(rest tokens, body []byte) (action, error) {
	id, err := resourceID(&rest)
	if err != nil {
		return action{}, err
	}
	var d *DrivePatch
	a, err := decode(body, (*DrivePatch).value, func(got *DrivePatch) action {
		d = got
		return postBoot(patchDrive(got))
	})
	if err == nil && d.DriveID != id {
		err = faultf("The id from the path does not match the id from the body!")
	}
	return a, err
}

func parsePutNIC(rest tokens, body []byte) (action, error) {
	id, err := resourceID(&rest)
	if err != nil {
		return action{}, err
	}
	var n *NIC
	a, err := decode(body, (*NIC).value, func(got *NIC) action {
		n = got
		return action{before: putNIC(got), after: refuse(errNoPCI)}
	})
	if err == nil && n.IfaceID != id {
		err = idMismatch(id, n.IfaceID)
	}
	return a, err
}

func parsePatchNIC(rest tokens, body []byte) (action, error) {
	id, err := resourceID(&rest)
	if err != nil {
		return action{}, err
	}
	var n *NICPatch
	a, err := decode(body, (*NICPatch).value, func(got *NICPatch) action {
		n = got
		return postBoot(patchNIC(got))
	})
	if err == nil && n.IfaceID != id {
		err = idMismatch(id, n.IfaceID)
	}
	return a, err
}

func idMismatch(path, body string) error {
	return faultf("The id from the path [%s] does not match the id from the body [%s]!", path, body)
}

func parsePatchMachine(body []byte) (action, error) {
	var m *MachineConfigPatch
	a, err := decode(body, (*MachineConfigPatch).value, func(got *MachineConfigPatch) action {
		m = got
		a := preBoot(updateMachine(*got))
		if got.CPUTemplate != nil {
			a.deprecated = "PATCH /machine-config: cpu_template field is deprecated."
		}
		return a
	})
	if err == nil && *m == (MachineConfigPatch{}) {
		err = faultf("Empty PATCH request.")
	}
	return a, err
}

func parsePatchVM(body []byte) (action, error) {
	var state string
	value := func(*struct{}) serde.Value {
		return serde.Struct("Vm", serde.Required("state", serde.Variant(&state, "Paused", "Resumed")))
	}
	return decode(body, value, func(*struct{}) action {
		if state == "Paused" {
			return postBoot(pause)
		}
		return postBoot(resume)
	})
}

func parseAction(body []byte) (action, error) {
	var kind string
	value := func(*struct{}) serde.Value {
		variant := serde.Variant(&kind, "FlushMetrics", "InstanceStart", "SendCtrlAltDel")
		return serde.Struct("ActionBody", serde.Required("action_type", variant))
	}
	return decode(body, value, func(*struct{}) action {
		switch kind {
		case "FlushMetrics":
			return postBoot(flushMetrics)
		case "InstanceStart":
			return preBoot(startInstance)
		}
		return postBoot(sendCtrlAltDel)
	})
}
