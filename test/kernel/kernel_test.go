//go:build e2e

// Package kernel tests runcvm kernel: kernels are imported, listed, checked, chosen and removed, and guests boot them by name.
package kernel

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/runcvm/runcvm/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// report is what is used of "runcvm kernel check --format json".
type report struct {
	Vmlinux    string
	Release    string
	ModulesDir string
	Usable     bool
	Options    []struct {
		Name     string
		State    string
		Required bool
	}
}

func check(t *testing.T, h *harness.Host, args ...string) report {
	t.Helper()
	r := h.Run(append([]string{"kernel", "check", "--format", "json"}, args...)...)
	var rep report
	if err := json.Unmarshal([]byte(r.Stdout), &rep); err != nil {
		t.Fatalf("%v\n%s\n%s", err, r.Stdout, r.Stderr)
	}
	if (r.Code == 0) != rep.Usable {
		t.Errorf("exit code %d, and usable is %t", r.Code, rep.Usable)
	}
	return rep
}

// machineKernel is the kernel that guests boot by default, as a tree.
func machineKernel(t *testing.T, h *harness.Host) (tree string, rep report) {
	t.Helper()
	rep = check(t, h)
	return filepath.Dir(filepath.Dir(rep.Vmlinux)), rep
}

func TestAnImportedKernelIsBootedByNameAndByDefault(t *testing.T) {
	h := harness.New(t)
	h.Env = []string{"RUNCVM_KERNEL="}
	tree, stock := machineKernel(t, h)
	if !stock.Usable || stock.Release == "" {
		t.Fatalf("%+v", stock)
	}
	if got := h.MustRun("kernel", "import", tree, "--name", "mine"); got != "mine\n" {
		t.Errorf("import printed %q", got)
	}
	t.Cleanup(func() { h.Run("kernel", "default", "--unset"); h.Run("kernel", "rm", "mine") })
	h.MustRun("kernel", "default", "mine")
	if got := h.MustRun("kernel", "default"); got != "mine\n" {
		t.Errorf("the default is %q", got)
	}
	if got := h.MustRun("kernel", "list", "--format", "{{.Name}} {{.Release}} {{.Modules}} {{.Default}}"); got != "mine "+stock.Release+" true true\n" {
		t.Errorf("list: %q", got)
	}
	if r := check(t, h, "mine"); !strings.HasPrefix(r.ModulesDir, filepath.Join(h.DataDir, "kernels", "mine")) {
		t.Errorf("%+v", r)
	}
	if r := h.Run("kernel", "rm", "mine"); r.Code != 1 || !strings.Contains(r.Stderr, "default") {
		t.Errorf("the default was removed: %d %q", r.Code, r.Stderr)
	}
	// One guest by name, from another directory than where a relative path would lead, and one by the default.
	if got := strings.TrimSpace(h.MustRun("run", "--rm", harness.Image, "uname", "-r")); got != stock.Release {
		t.Errorf("by the default: uname says %q, want %q", got, stock.Release)
	}
	if got := strings.TrimSpace(h.MustRun("run", "--rm", "--kernel", "mine", harness.Image, "uname", "-r")); got != stock.Release {
		t.Errorf("uname says %q, want %q", got, stock.Release)
	}
	h.MustRun("kernel", "default", "--unset")
	if got := h.MustRun("kernel", "default"); got != "" {
		t.Errorf("the default is %q", got)
	}
	h.MustRun("kernel", "rm", "mine")
	if r := h.Run("run", "--rm", "--kernel", "mine", harness.Image, "true"); r.Code != 125 || !strings.Contains(r.Stderr, "no such kernel was imported") {
		t.Errorf("a kernel that was removed: %d %q", r.Code, r.Stderr)
	}
}

func TestAKernelWithoutWhatGuestsNeedIsRefusedByTheOptionsNames(t *testing.T) {
	h := harness.New(t)
	h.Env = []string{"RUNCVM_KERNEL="}
	tree, stock := machineKernel(t, h)
	dir := t.TempDir()
	copyFile(t, stock.Vmlinux, filepath.Join(dir, filepath.Base(stock.Vmlinux)), "")
	copyFile(t, filepath.Join(tree, "boot", "config-"+stock.Release), filepath.Join(dir, "config-"+stock.Release), "CONFIG_PID_NS=")
	image := filepath.Join(dir, filepath.Base(stock.Vmlinux))
	// Its modules are not beside it either.
	for _, args := range [][]string{{"kernel", "import", image, "--name", "bad"}, {"run", "--rm", "--kernel", image, harness.Image, "true"}} {
		r := h.Run(args...)
		if r.Code == 0 || !strings.Contains(r.Stderr, "CONFIG_PID_NS is not set") || !strings.Contains(r.Stderr, "CONFIG_OVERLAY_FS is a module") {
			t.Errorf("%s: exit code %d, %s", args[0], r.Code, r.Stderr)
		}
	}
	if r := check(t, h, image); r.Usable {
		t.Errorf("%+v", r)
	}
	if got := h.MustRun("kernel", "list", "-q"); got != "" {
		t.Errorf("it was imported: %q", got)
	}
	if r := h.Run("kernel", "import", os.DevNull); r.Code != 1 || r.Stderr == "" {
		t.Errorf("%d %q", r.Code, r.Stderr)
	}
}

// copyFile copies a file without the lines that begin with a text.
func copyFile(t *testing.T, from, to, without string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if without != "" {
		var kept strings.Builder
		for line := range strings.Lines(string(b)) {
			if !strings.HasPrefix(line, without) {
				kept.WriteString(line)
			}
		}
		b = []byte(kept.String())
	}
	if err := os.WriteFile(to, b, 0o600); err != nil {
		t.Fatal(err)
	}
}
