package doctor

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/runcvm/runcvm/internal/firecracker/install"
	"github.com/runcvm/runcvm/internal/programs"
)

const installFirecracker = "runcvm firecracker install URL (a release's .tgz: https://github.com/firecracker-microvm/firecracker/releases)"

// programTimeout bounds a program that is asked for its version, on a busy host.
const programTimeout = 30 * time.Second

// output runs a program and returns what it writes; of one that fails, its last line in the error.
func output(ctx context.Context, program string, args ...string) (string, error) {
	return outputWith(ctx, nil, program, args...)
}

// outputWith is output with something added to the program's environment.
func outputWith(ctx context.Context, env []string, program string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, programTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	text := strings.TrimSpace(string(out))
	if err != nil {
		last := text[strings.LastIndexByte(text, '\n')+1:]
		return "", fmt.Errorf("%s %s: %w: %.300q", program, strings.Join(args, " "), err, last)
	}
	return text, nil
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return strings.TrimSpace(line)
}

func checkFirecracker(ctx context.Context, h *host) Result {
	name := h.cfg.Firecracker
	if h.cfg.VMM != "" && !isEmulator(h.cfg.VMM) {
		name = h.cfg.VMM
	}
	path, err := programs.Find(name)
	if err != nil {
		return Result{Status: Missing, Detail: err.Error(), Remedy: installFirecracker}
	}
	h.firecracker = path
	text, err := output(ctx, path, "--version")
	if err != nil {
		return Result{Status: Missing, Detail: "does not run: " + err.Error(), Remedy: installFirecracker}
	}
	version, ok := parseVersion(text)
	if !ok || !strings.Contains(text, "Firecracker") {
		return Result{Status: Missing, Detail: fmt.Sprintf("%s says that it is %.100q, no Firecracker", path, firstLine(text)),
			Remedy: installFirecracker}
	}
	if compare(version, install.Least) < 0 {
		return Result{Status: Missing,
			Detail: fmt.Sprintf("%s is version %s, the least is %s", path, dotted(version), dotted(install.Least)),
			Remedy: installFirecracker}
	}
	return Result{Status: Found, Detail: path + ", version " + dotted(version)}
}

// checkJailer looks beside Firecracker, with which a release brings it.
func checkJailer(ctx context.Context, h *host) Result {
	beside := filepath.Join(filepath.Dir(h.firecracker), "jailer")
	path := beside
	if _, err := os.Stat(beside); h.firecracker == "" || err != nil {
		if path, err = programs.Find("jailer"); err != nil {
			return Result{Status: Missing, Detail: err.Error(), Remedy: installFirecracker + " brings it along"}
		}
	}
	text, err := output(ctx, path, "--version")
	if err != nil {
		return Result{Status: Missing, Detail: "does not run: " + err.Error(), Remedy: installFirecracker}
	}
	version, _ := parseVersion(text)
	r := Result{Status: Found, Detail: path + ", version " + dotted(version)}
	if h.firecracker != "" {
		other, err := output(ctx, h.firecracker, "--version")
		if v, ok := parseVersion(other); err == nil && ok && v != version {
			r.Status, r.Remedy = Warning, "take both of one release: "+installFirecracker
			r.Detail += ", beside a Firecracker of version " + dotted(v)
		}
	}
	return r
}

func checkEmulator(ctx context.Context, h *host) Result {
	name := h.cfg.Emulator
	if isEmulator(h.cfg.VMM) {
		name = h.cfg.VMM
	}
	const remedy = "install firecracker-qemu beside runcvm (make install), or set vmm.emulator"
	path, err := programs.Find(name)
	if err != nil {
		return Result{Status: Missing, Detail: err.Error(), Remedy: remedy}
	}
	text, err := output(ctx, path, "--version")
	if err != nil {
		return Result{Status: Missing, Detail: "does not run: " + err.Error(), Remedy: remedy}
	}
	version, _ := parseVersion(text)
	return Result{Status: Found, Detail: fmt.Sprintf("%s, the API of version %s", path, dotted(version))}
}

// qemuBinary is what firecracker-qemu runs.
func qemuBinary() string {
	if b := os.Getenv("FIRECRACKER_QEMU_BINARY"); b != "" {
		return b
	}
	return "qemu-system-x86_64"
}

func checkQEMU(ctx context.Context, _ *host) Result {
	const remedy = "apt-get install qemu-system-x86"
	path, err := exec.LookPath(qemuBinary())
	if err != nil {
		return Result{Status: Missing, Detail: qemuBinary() + " is not in $PATH", Remedy: remedy}
	}
	text, err := output(ctx, path, "--version")
	if err != nil {
		return Result{Status: Missing, Detail: "does not run: " + err.Error(), Remedy: remedy}
	}
	devices, err := output(ctx, path, "-machine", "microvm", "-device", "help")
	if err != nil || !strings.Contains(devices, `"vhost-user-vsock-device"`) {
		return Result{Status: Missing, Detail: firstLine(text) + " lacks the machine microvm or the device vhost-user-vsock-device",
			Remedy: remedy + " (7.2 or later)"}
	}
	return Result{Status: Found, Detail: path + ", " + firstLine(text)}
}

// versionRE is compiled when it is first used: what is compiled at the program's start is a part of every container's.
var versionRE = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`v?([0-9]+)\.([0-9]+)\.([0-9]+)`) })

// parseVersion finds the first version in a text.
func parseVersion(text string) (v [3]int, ok bool) {
	m := versionRE().FindStringSubmatch(text)
	if m == nil {
		return v, false
	}
	for i := range v {
		n, err := strconv.Atoi(m[i+1])
		if err != nil {
			return v, false
		}
		v[i] = n
	}
	return v, true
}

func compare(a, b [3]int) int {
	for i := range a {
		if a[i] != b[i] {
			return a[i] - b[i]
		}
	}
	return 0
}

func dotted(v [3]int) string { return fmt.Sprintf("%d.%d.%d", v[0], v[1], v[2]) }
