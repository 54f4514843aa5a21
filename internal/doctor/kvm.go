package doctor

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/runcvm/runcvm/internal/kvm"
)

// kvmNumbers are the device's, as the kernel's list has them (Documentation/admin-guide/devices.txt).
const kvmNumbers = "10 232"

func checkKVM(_ context.Context, h *host) Result {
	flags := h.cpuFlags()
	f, err := os.OpenFile(h.path(kvm.Device), os.O_RDWR, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Result{Status: Missing, Detail: "there is no " + kvm.Device, Remedy: h.kvmRemedy(flags)}
	case errors.Is(err, fs.ErrPermission):
		return Result{Status: Missing, Detail: kvm.Device + " is not permitted: " + err.Error(),
			Remedy: "run as root or as a member of the group kvm (usermod -aG kvm USER); in a container, allow the " +
				"device: --device " + kvm.Device}
	case err != nil:
		return Result{Status: Missing, Detail: kvm.Device + " does not open: " + err.Error(), Remedy: h.kvmRemedy(flags)}
	}
	f.Close()
	h.kvmOpens = true
	took, err := kvm.Probe()
	nested := ""
	if slices.Contains(flags, "hypervisor") {
		nested = "; nested: this host is a virtual machine itself"
	}
	const emulate = "let guests be emulated instead, without a security boundary: vmm.emulation = \"always\" (RUNCVM_EMULATION); or " +
		"enable nested virtualization in this machine's hypervisor"
	switch {
	case err != nil:
		return Result{Status: Missing, Detail: fmt.Sprintf("%s opens but runs no guest: %v%s", kvm.Device, err, nested), Remedy: emulate}
	case took >= kvm.Slow:
		return Result{Status: Warning, Detail: fmt.Sprintf("runs a guest, but only by interpretation: a short one takes %v%s",
			took.Round(10*time.Microsecond), nested), Remedy: "expect slow guests, or " + emulate}
	}
	return Result{Status: Found, Detail: fmt.Sprintf("runs a guest: a short one takes %v%s", took.Round(time.Microsecond), nested)}
}

// kvmRemedy is what brings a device that is not there.
func (h *host) kvmRemedy(flags []string) string {
	module := ""
	switch {
	case slices.Contains(flags, "vmx"):
		module = "kvm_intel"
	case slices.Contains(flags, "svm"):
		module = "kvm_amd"
	}
	if _, err := os.Stat(h.path("/sys/class/misc/kvm")); err == nil {
		return "the kernel has it, this /dev has not: mknod " + kvm.Device + " c " + kvmNumbers + "; in a container: --device " + kvm.Device
	}
	switch {
	case module != "":
		return "modprobe " + module + "; where that fails, enable virtualization in the firmware"
	case slices.Contains(flags, "hypervisor"):
		return "this host is a virtual machine without nested virtualization: enable that in its hypervisor, or take a machine with KVM"
	}
	return "enable virtualization (VT-x, AMD-V) in the firmware, then modprobe kvm_intel or kvm_amd"
}

// cpuFlags are the first processor's.
func (h *host) cpuFlags() []string {
	f, err := os.Open(h.path("/proc/cpuinfo"))
	if err != nil {
		return nil
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if name, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(name) == "flags" {
			return strings.Fields(value)
		}
	}
	return nil
}
