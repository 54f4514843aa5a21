// Package doctor looks whether this host can run containers in microVMs, and says what to do where it cannot.
//
// Examine is legal at any time and changes nothing that stays: what it makes to try something is gone when it returns.
package doctor

import (
	"context"
	"path/filepath"
	"slices"

	"github.com/runcvm/runcvm/internal/config"
)

// Status is what a check has come to.
type Status string

// What a check can come to.
const (
	Found   Status = "found"
	Warning Status = "warning" // there, but something is to be known of it
	Missing Status = "missing"
)

// Result is one line of the report.
type Result struct {
	// Name is of what was looked for.
	Name   string `json:"name"`
	Status Status `json:"status"`
	// Needed says that no container can run without it, with the configuration as it is.
	Needed bool `json:"needed"`
	// Detail is what was found.
	Detail string `json:"detail"`
	// Remedy is what to do; empty where nothing is.
	Remedy string `json:"remedy,omitempty"`
}

// Report is everything that was found, in the order of the checks.
type Report struct {
	// OK says that containers can run.
	OK bool `json:"ok"`
	// Emulated says that they would run without a boundary: the VMM only emulates.
	Emulated bool     `json:"emulated"`
	Checks   []Result `json:"checks"`
}

// Options say what to look at.
type Options struct {
	Config *config.Config
	// Runtime says that this runcvm serves engines as an OCI runtime, so that to register it there makes sense.
	Runtime bool
	// Root is where the host's files are found: "" but in tests.
	Root string
}

// host is what the checks look at, and what they have found that others go by.
type host struct {
	Options
	cfg *config.Config

	// kvmOpens says that /dev/kvm can be opened, which is what a start goes by.
	kvmOpens bool
	// firecracker is its path, empty where it was not found.
	firecracker string
}

// path is of a file of the host.
func (h *host) path(name string) string { return filepath.Join(h.Root, "/", name) }

// Names of the checks by which the VMM is chosen.
const (
	nameKVM         = "KVM"
	nameFirecracker = "Firecracker"
	nameEmulator    = "firecracker-qemu"
	nameQEMU        = "QEMU"
)

// check is one of them. Its function leaves the name and whether it is needed to the table.
type check struct {
	name   string
	needed bool
	look   func(context.Context, *host) Result
}

// checks are done in this order. What the VMM needs depends on which one the configuration chooses: see choose.
var checks = []check{
	{"privileges", true, privileges},
	{nameKVM, false, checkKVM},
	{nameFirecracker, false, checkFirecracker},
	{"jailer", false, checkJailer},
	{nameEmulator, false, checkEmulator},
	{nameQEMU, false, checkQEMU},
	{"guest kernel", true, checkKernel},
	{"guest agent", true, checkAgent},
	{"crun", true, checkCrun},
	{"mke2fs", true, checkMke2fs},
	{"e2fsck", false, checkE2fsck},
	{"debugfs", false, checkDebugfs},
	{"data_dir", true, checkDataDir},
	{"run_dir", true, checkRunDir},
	{"memory", false, checkMemory},
	{"clock source", false, checkClock},
	{"cgroups", false, checkCgroups},
	{"tun", false, checkTun},
	{"traffic control", false, checkTraffic},
	{"CNI plugins", false, checkCNI},
	{"fuse", false, checkFuse},
	{"Docker", false, checkDocker},
	{"Podman", false, checkPodman},
	{"containerd", false, checkContainerd},
}

// Examine does all checks.
func Examine(ctx context.Context, o Options) Report {
	h := &host{Options: o, cfg: o.Config}
	var r Report
	for _, c := range checks {
		result := c.look(ctx, h)
		result.Name, result.Needed = c.name, c.needed
		r.Checks = append(r.Checks, result)
	}
	r.Emulated = h.choose(r.Checks)
	r.OK = !slices.ContainsFunc(r.Checks, func(c Result) bool { return c.Needed && c.Status == Missing })
	return r
}

// noBoundary is what is said wherever guests would be emulated.
const noBoundary = "guests are emulated by firecracker-qemu, which is no security boundary"

// choose marks what is needed by the VMM that a start would choose, and says whether that emulates. What it does not choose is
// not needed.
func (h *host) choose(results []Result) (emulated bool) {
	result := func(name string) *Result {
		return &results[slices.IndexFunc(results, func(r Result) bool { return r.Name == name })]
	}
	switch {
	case h.cfg.VMM != "":
		emulated = isEmulator(h.cfg.VMM)
	case h.cfg.Emulation == "always":
		emulated = true
	case h.cfg.Emulation == "auto":
		emulated = !h.kvmOpens || h.firecracker == ""
	}
	needed := []string{nameKVM, nameFirecracker}
	if emulated {
		needed = []string{nameEmulator, nameQEMU}
	}
	for _, name := range needed {
		result(name).Needed = true
	}
	if emulated {
		e := result(nameEmulator)
		if e.Status == Found {
			e.Status, e.Detail = Warning, e.Detail+"; "+noBoundary
			e.Remedy = "for a boundary: KVM and Firecracker, and vmm.emulation = \"never\" (RUNCVM_EMULATION), with which nothing " +
				"runs without"
		}
	}
	return emulated
}

func isEmulator(path string) bool { return filepath.Base(path) == nameEmulator }
