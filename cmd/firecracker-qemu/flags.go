package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// flag is one option of firecracker's command line.
type flag struct {
	name, help string
	value      bool   // it takes a value
	preset     string // the value when it is not given
	requires   string
	forbids    string
	// refused says why emulation cannot do it; empty for what works.
	refused string
}

const noSuch = "firecracker-qemu emulates Firecracker in QEMU and has no "

// flags are those of Firecracker v1.16, in the order of its help text.
var flags = []flag{
	{name: "api-sock", value: true, preset: "/run/firecracker.socket", help: "Path to unix domain socket used by the API."},
	{name: "boot-timer", help: "Refused: log the time since InstanceStart.", refused: "boot timer device"},
	{name: "config-file", value: true, help: "Path to a file that contains the microVM configuration in JSON format."},
	{name: "describe-snapshot", value: true, help: "Refused: print a snapshot's version.", refused: "snapshots"},
	{name: "enable-pci", help: "Refused: PCIe support.", refused: "PCI transport"},
	{name: "http-api-max-payload-size", value: true, preset: "51200", help: "Http API request payload max size, in bytes."},
	{name: "id", value: true, preset: "anonymous-instance", help: "MicroVM unique identifier."},
	{name: "level", value: true, help: "Set the logger level."},
	{name: "log-path", value: true, help: "Path to a fifo or a file used for configuring the logger on startup."},
	{name: "metadata", value: true, help: "Refused: contents of the MMDS.", refused: "metadata service (MMDS)"},
	{name: "metrics-path", value: true, help: "Path to a fifo or a file used for configuring the metrics on startup."},
	{name: "mmds-size-limit", value: true, help: "Refused: limit of the MMDS.", refused: "metadata service (MMDS)"},
	{name: "module", value: true, help: "Refused: the logger's module filter.", refused: "modules of Firecracker's to filter the log by"},
	{name: "no-api", requires: "config-file", help: "Start the microVM of the configuration file without an API socket."},
	{name: "no-seccomp", forbids: "seccomp-filter", help: "Accepted: there is no seccomp filter to leave out."},
	{name: "parent-cpu-time-us", value: true, help: "Parent process CPU time (microseconds); for metrics only."},
	{name: "seccomp-filter", value: true, forbids: "no-seccomp", help: "Refused: path of a seccomp filter.", refused: "seccomp filters"},
	{name: "show-level", help: "Whether or not to output the level in the logs."},
	{name: "show-log-origin", help: "Whether or not to include the file path and line number of the log's origin."},
	{name: "snapshot-version", help: "Refused: print the snapshots' version.", refused: "snapshots"},
	{name: "start-time-cpu-us", value: true, help: "Process start CPU time (microseconds); for metrics only."},
	{name: "start-time-us", value: true, help: "Process start time (microseconds); for metrics only."},
	{name: "version", help: "Print the binary version number."},
}

// options are the flags that were given, by name; a flag without a value has an empty one.
type options map[string]string

func (o options) has(name string) bool { _, ok := o[name]; return ok }

// get is a flag's value or its preset.
func (o options) get(name string) string {
	if v, ok := o[name]; ok {
		return v
	}
	return find(name).preset
}

func find(name string) *flag {
	k := slices.IndexFunc(flags, func(f flag) bool { return f.name == name })
	if k < 0 {
		return nil
	}
	return &flags[k]
}

// words is an error that says what Firecracker says, capitals and full stops included.
type words string

func (w words) Error() string { return string(w) }

func inWords(format string, args ...any) error { return words(fmt.Sprintf(format, args...)) }

// parseFlags reads a command line as Firecracker does: long options only, values as separate arguments.
func parseFlags(args []string) (options, error) {
	if k := slices.Index(args, "--"); k >= 0 {
		args = args[:k]
	}
	if slices.Contains(args, "--help") || slices.Contains(args, "-h") {
		return options{"help": ""}, nil
	}
	if slices.Contains(args, "--version") {
		return options{"version": ""}, nil
	}
	given := options{}
	for k := 0; k < len(args); k++ {
		name, ok := strings.CutPrefix(args[k], "--")
		f := find(name)
		if !ok || f == nil {
			return nil, inWords("Found argument '%s' which wasn't expected, or isn't valid in this context.", name)
		}
		if given.has(name) {
			return nil, inWords("The argument '%s' was provided more than once.", name)
		}
		given[name] = ""
		if f.value {
			if k++; k >= len(args) || strings.HasPrefix(args[k], "--") {
				return nil, inWords("The argument '%s' requires a value, but none was supplied.", name)
			}
			given[name] = args[k]
		}
	}
	return given, check(given)
}

func check(given options) error {
	var errs []error
	for _, f := range flags {
		switch {
		case !given.has(f.name):
		case f.requires != "" && !given.has(f.requires):
			return inWords("Argument '%s' required, but not found.", f.requires)
		case f.forbids != "" && given.has(f.forbids):
			return inWords("Argument '%s' cannot be used together with argument '%s'.", f.forbids, f.name)
		case f.refused != "":
			errs = append(errs, fmt.Errorf("--%s: %s%s", f.name, noSuch, f.refused))
		}
	}
	return errors.Join(errs...)
}

func help() string {
	var b strings.Builder
	b.WriteString("optional arguments:\n")
	widest := 0
	form := func(f flag) string {
		if f.value {
			return fmt.Sprintf("  --%s <%s>", f.name, f.name)
		}
		return "  --" + f.name
	}
	for _, f := range flags {
		widest = max(widest, len(form(f)))
	}
	for _, f := range flags {
		fmt.Fprintf(&b, "%-*s   %s", widest, form(f), f.help)
		if f.preset != "" {
			fmt.Fprintf(&b, " [default: %s]", f.preset)
		}
		b.WriteByte('\n')
	}
	return b.String()
}
