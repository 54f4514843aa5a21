//go:build e2e

package run

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/runcvm/runcvm/test/harness"
)

// evidence checks that an error names its cause and carries the VMM's log and the end of the guest's console.
func evidence(t *testing.T, r harness.Result, cause string, console ...string) {
	t.Helper()
	if r.Code != 125 || r.Stdout != "" {
		t.Errorf("exit code %d, want 125, stdout %q", r.Code, r.Stdout)
	}
	_, shown, _ := strings.Cut(r.Stderr, "guest's console")
	for _, want := range append([]string{cause, "VMM's log"}, console...) {
		if !strings.Contains(r.Stderr, want) {
			t.Errorf("standard error does not contain %q", want)
		}
	}
	for _, want := range console {
		if !strings.Contains(shown, want) {
			t.Errorf("the console's last lines do not contain %q", want)
		}
	}
	if t.Failed() || testing.Verbose() {
		t.Logf("standard error:\n%s", r.Stderr)
	}
}

// kernelTree copies the guest's kernel into a tree of its own, with the configuration as change leaves it.
func kernelTree(t *testing.T, change func(string) string) string {
	t.Helper()
	var config, modules []string
	for _, root := range []string{"/usr/local/lib/runcvm/kernel", ""} {
		if config, _ = filepath.Glob(root + "/boot/config-*"); len(config) > 0 {
			modules, _ = filepath.Glob(root + "/lib/modules/*")
			break
		}
	}
	if len(config) == 0 || len(modules) == 0 {
		t.Fatal("no guest kernel with its configuration: run make setup")
	}
	boot, release := filepath.Dir(config[0]), strings.TrimPrefix(filepath.Base(config[0]), "config-")
	tree := t.TempDir()
	for _, dir := range []string{"boot", "lib/modules"} {
		if err := os.MkdirAll(filepath.Join(tree, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(config[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(tree, "boot", filepath.Base(config[0])), []byte(change(string(text))), 0o600); err != nil {
		t.Fatal(err)
	}
	for from, to := range map[string]string{
		filepath.Join(boot, "vmlinuz-"+release):                      "boot/vmlinuz-" + release,
		filepath.Join(filepath.Dir(boot), "lib", "modules", release): "lib/modules/" + release,
	} {
		if err := os.Symlink(from, filepath.Join(tree, to)); err != nil {
			t.Fatal(err)
		}
	}
	return tree
}

func TestAKernelWithoutVirtioIsRefusedByTheOption(t *testing.T) {
	h := harness.New(t)
	tree := kernelTree(t, func(config string) string {
		for _, option := range []string{"CONFIG_VIRTIO_MMIO", "CONFIG_VIRTIO_BLK"} {
			config = strings.ReplaceAll(config, "\n"+option+"=m\n", "\n# "+option+" is not set\n")
			config = strings.ReplaceAll(config, "\n"+option+"=y\n", "\n# "+option+" is not set\n")
		}
		return config
	})
	r := h.Run("run", "--rm", "--kernel", tree, harness.Image, "true")
	if r.Code != 125 || !strings.Contains(r.Stderr, "CONFIG_VIRTIO_MMIO is not set") || !strings.Contains(r.Stderr, "CONFIG_VIRTIO_BLK is not set") {
		t.Errorf("exit code %d, stderr %q", r.Code, r.Stderr)
	}
}

// TestAKernelWhoseDriversAreNowhereEndsWithItsConsole takes an unpacked kernel away from its configuration and its modules,
// so that nothing but a boot can show what it lacks. It is the distribution's: the faster kernel's drivers are no modules.
func TestAKernelWhoseDriversAreNowhereEndsWithItsConsole(t *testing.T) {
	h := harness.New(t)
	h.Env = []string{"RUNCVM_KERNEL="}              // the one that is found
	h.MustRun("run", "--rm", harness.Image, "true") // unpacks the kernel, unless a test before has
	unpacked, _ := filepath.Glob(filepath.Join(h.DataDir, "kernels", "kernel-*", "vmlinux"))
	if len(unpacked) == 0 {
		t.Fatal("no unpacked kernel in the cache")
	}
	kernel := filepath.Join(t.TempDir(), "vmlinux")
	copyFile(t, kernel, unpacked[0])
	evidence(t, h.Run("run", "--rm", "--kernel", kernel, harness.Image, "true"), "the guest ended by itself", "the kernel has no vsock")
}

func copyFile(t *testing.T, to, from string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// hang keeps a guest from ever answering: a kernel without an init panics, and then waits for ever.
const hang = "RUNCVM_KERNEL_ARGS=rdinit=/nonexistent panic=0"

func TestAGuestThatNeverAnswersEndsAtTheDeadline(t *testing.T) {
	h := harness.New(t)
	const deadline = 15 * time.Second
	// Loud, so that there is a word of the kernel within the deadline also on a busy machine.
	h.Env = []string{hang + " loglevel=7", fmt.Sprint("RUNCVM_BOOT_TIMEOUT=", deadline)}
	start := time.Now()
	r := h.Run("run", "--name", "hangs", harness.Image, "true")
	if took := time.Since(start); took < deadline || took > deadline+harness.Patience/2 {
		t.Errorf("it took %s", took)
	}
	evidence(t, r, "the guest's agent has not answered within "+deadline.String(), "] ")
	if left := h.Records(); len(left) != 0 {
		t.Errorf("a container that never ran is kept: %+v", left)
	}
}

func TestAGuestThatPanicsIsToldAtOnce(t *testing.T) {
	h := harness.New(t)
	h.Env = []string{"RUNCVM_KERNEL_ARGS=rdinit=/nonexistent"}
	evidence(t, h.Run("run", "--rm", harness.Image, "true"), "the guest ended by itself", "Kernel panic")
}

// bootingVMM starts a container whose guest hangs, and returns its VMM when the guest's kernel has come to its end.
func bootingVMM(t *testing.T, h *harness.Host, args ...string) (*harness.Running, int) {
	t.Helper()
	h.Env = append(h.Env, hang)
	r := h.Start(append([]string{"run", "--name", "boots"}, append(args, harness.Image, "true")...)...)
	record := h.AwaitState("boots", "creating")
	harness.Eventually(t, harness.Patience, func() error {
		b, err := os.ReadFile(filepath.Join(h.DataDir, "containers", record.ID, "console.log"))
		if err == nil && !bytes.Contains(b, []byte("Kernel panic")) {
			err = io.ErrUnexpectedEOF
		}
		return err
	})
	return r, h.VMM(record)
}

func TestAVMMThatIsKilledDuringTheBoot(t *testing.T) {
	h := harness.New(t)
	r, vmm := bootingVMM(t, h)
	harness.Kill(t, vmm, syscall.SIGKILL)
	evidence(t, r.Wait(10*time.Second), "the VMM ended: signal: killed", "Kernel panic")
}

func TestAStartIsInterrupted(t *testing.T) {
	for name, interrupt := range map[string]func(*testing.T, *harness.Host, *harness.Running){
		"by a signal": func(_ *testing.T, _ *harness.Host, r *harness.Running) { r.Signal(syscall.SIGTERM) },
		"by rm -f":    func(_ *testing.T, h *harness.Host, _ *harness.Running) { h.MustRun("rm", "-f", "boots") },
	} {
		t.Run(name, func(t *testing.T) {
			h := harness.New(t)
			r, _ := bootingVMM(t, h)
			interrupt(t, h, r)
			if got := r.Wait(harness.Soon); got.Code != 125 || !strings.Contains(got.Stderr, "interrupted") && !strings.Contains(got.Stderr, "removed") {
				t.Errorf("exit code %d, stderr %q", got.Code, got.Stderr)
			}
			if left := h.Records(); len(left) != 0 {
				t.Errorf("left: %+v", left)
			}
		})
	}
}
