package api

import (
	"context"
	"fmt"
	"unicode"
	"unicode/utf8"

	"github.com/runcvm/runcvm/internal/emulator/api/serde"
)

// CheckID checks a microVM's id: 1 to 64 letters, digits and hyphens.
func CheckID(id string) error {
	const longest = 64 // Firecracker's MAX_INSTANCE_ID_LEN
	if id == "" || len(id) > longest {
		return fmt.Errorf("InvalidLen(%d, 1, %d)", len(id), longest)
	}
	position := 0
	for _, r := range id {
		if r != '-' && !unicode.IsLetter(r) && !unicode.IsNumber(r) || r == utf8.RuneError {
			return fmt.Errorf("InvalidChar(%q, %d)", r, position)
		}
		position++
	}
	return nil
}

// configFile is a whole microVM as --config-file describes it.
type configFile struct {
	drives  []Drive
	boot    BootSource
	machine *MachineConfig
	logger  *Logger
	metrics *Metrics
	nics    []NIC
	vsock   *Vsock
	entropy *Entropy

	// Refused by name when given.
	balloon, cpuConfig, mmds, hotplug *struct{}
	pmem                              []struct{}
}

func ignored(*struct{}) serde.Value { return serde.Any() }

func (c *configFile) value() serde.Value {
	return serde.Lenient("VmmConfig",
		serde.Optional("balloon", &c.balloon, ignored),
		serde.Required("drives", serde.Seq(&c.drives, (*Drive).value)),
		serde.Required("boot-source", c.boot.value()),
		serde.Optional("cpu-config", &c.cpuConfig, ignored),
		serde.Optional("logger", &c.logger, (*Logger).value),
		serde.Optional("machine-config", &c.machine, (*MachineConfig).value),
		serde.Optional("metrics", &c.metrics, (*Metrics).value),
		serde.Optional("mmds-config", &c.mmds, ignored),
		serde.Default("network-interfaces", serde.Seq(&c.nics, (*NIC).value)),
		serde.Optional("vsock", &c.vsock, (*Vsock).value),
		serde.Optional("entropy", &c.entropy, (*Entropy).value),
		serde.Default("pmem", serde.Seq(&c.pmem, ignored)),
		serde.Optional("memory-hotplug", &c.hotplug, ignored))
}

// Load applies a configuration file's text before boot, in the order in which Firecracker does.
func (v *VMM) Load(ctx context.Context, text []byte) error {
	var c configFile
	if err := serde.Unmarshal(text, c.value()); err != nil {
		return faultf("Invalid JSON: %v", err)
	}
	switch {
	case c.balloon != nil:
		return noBalloon
	case c.cpuConfig != nil:
		return noCPUConfig
	case c.mmds != nil:
		return noMMDS
	case len(c.pmem) > 0:
		return noPmem
	case c.hotplug != nil:
		return noHotplug
	}
	var steps []step
	if c.logger != nil {
		steps = append(steps, putLogger(c.logger))
	}
	if c.metrics != nil {
		steps = append(steps, putMetrics(c.metrics))
	}
	if c.machine != nil {
		steps = append(steps, updateMachine(c.machine.patch()))
	}
	steps = append(steps, putBootSource(&c.boot))
	for k := range c.drives {
		steps = append(steps, putDrive(&c.drives[k]))
	}
	for k := range c.nics {
		steps = append(steps, putNIC(&c.nics[k]))
	}
	if c.vsock != nil {
		steps = append(steps, putVsock(c.vsock))
	}
	if c.entropy != nil {
		steps = append(steps, putEntropy(c.entropy))
	}
	v.turn.Lock()
	defer v.turn.Unlock()
	for _, s := range steps {
		if _, err := s(ctx, v); err != nil {
			return err
		}
	}
	return nil
}
