//go:build e2e

package doctor

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/runcvm/runcvm/test/harness"
)

// complete is a host with everything: programs in directories of its own, and a /dev that is made anew for each run. /usr/sbin is
// hidden, since programs are looked for there too.
type complete struct {
	t                *testing.T
	dir, bin, path   string
	kernel, data, rt string
}

const completeScript = `
mount -t tmpfs -o mode=755 tmpfs /dev
mknod -m 666 /dev/null c 1 3
mknod -m 666 /dev/urandom c 1 9
mkdir /dev/net
for d in $DEVICES; do mknod "/dev/${d%%:*}" c 10 "${d##*:}"; done
mount -t tmpfs tmpfs /usr/sbin
eval "$HIDE"
exec $AS "$BIN/runcvm" doctor --json`

func newComplete(t *testing.T) *complete {
	t.Helper()
	dir := t.TempDir()
	c := &complete{t: t, dir: dir, bin: filepath.Join(dir, "bin"), path: filepath.Join(dir, "path"), kernel: filepath.Join(dir, "kernel"),
		data: filepath.Join(dir, "data"), rt: filepath.Join(dir, "run")}
	for _, name := range []string{"runcvm", "runcvm-guest", "firecracker-qemu"} {
		copyFile(t, filepath.Join(harness.Bin(t), name), filepath.Join(c.bin, name))
	}
	for _, name := range []string{"mke2fs", "e2fsck", "debugfs"} {
		copyFile(t, find(t, name), filepath.Join(c.path, name))
	}
	for _, name := range []string{"qemu-system-x86_64", "crun", "setpriv", "mount", "mknod", "mkdir", "sh"} {
		if err := os.Symlink(find(t, name), filepath.Join(c.path, name)); err != nil {
			t.Fatal(err)
		}
	}
	c.script("firecracker", "Firecracker v1.16.1")
	c.script("jailer", "Jailer v1.16.1")
	if err := os.Symlink("/usr/local/lib/runcvm/kernel", c.kernel); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{c.data, c.rt} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// find finds a program of the host.
func find(t *testing.T, name string) string {
	t.Helper()
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/sbin") {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path
		}
	}
	t.Fatalf("%s is not installed: run make setup", name)
	return ""
}

func (c *complete) script(name, says string) {
	c.t.Helper()
	if err := os.WriteFile(filepath.Join(c.path, name), []byte("#!/bin/sh\necho '"+says+"'\n"), 0o755); err != nil {
		c.t.Fatal(err)
	}
}

var devices = map[string]string{"kvm": "kvm:232", "net/tun": "net/tun:200", "fuse": "fuse:229"}

// doctor runs it with what is hidden, and with further settings.
func (c *complete) doctor(t *testing.T, h hidden, env ...string) report {
	t.Helper()
	for _, path := range h.files {
		aside := filepath.Join(c.dir, "aside")
		if err := os.Rename(filepath.Join(c.dir, path), aside); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := os.Rename(aside, filepath.Join(c.dir, path)); err != nil {
				t.Fatal(err)
			}
		}()
	}
	var nodes []string
	for name, node := range devices {
		if name != h.device {
			nodes = append(nodes, node)
		}
	}
	env = append([]string{
		"PATH=" + c.path + ":/usr/bin:/bin", "BIN=" + c.bin, "DEVICES=" + strings.Join(nodes, " "), "HIDE=" + h.script, "AS=" + h.as,
		"RUNCVM_CONFIG=/dev/null", "RUNCVM_DATA_DIR=" + c.data, "RUNCVM_RUN_DIR=" + c.rt, "RUNCVM_KERNEL=" + c.kernel,
		"RUNCVM_CRUN=" + filepath.Join(c.path, "crun"), "FIRECRACKER_QEMU_BINARY=" + filepath.Join(c.path, "qemu-system-x86_64"),
		"RUNCVM_FIRECRACKER=" + filepath.Join(c.path, "firecracker"),
	}, env...)
	text, code := run(t, completeScript, env...)
	return parse(t, text, code)
}

// hidden is what a host lacks.
type hidden struct {
	files  []string // below the complete host's directory
	device string
	script string
	as     string // what runs doctor
}

// agentElsewhere hides where agents are installed, below which the kernel lies, too.
const agentElsewhere = `mkdir /dev/kernel; mount --bind /usr/local/lib/runcvm/kernel /dev/kernel; export RUNCVM_KERNEL=/dev/kernel
mount -t tmpfs tmpfs /usr/local/lib`

func TestEachThingThatIsMissingIsNamed(t *testing.T) {
	c := newComplete(t)
	before := c.doctor(t, hidden{}, "RUNCVM_EMULATION=always")
	if !before.OK || !before.Emulated {
		t.Fatalf("the host is not complete: %+v", before)
	}
	if l := before.line(t, "traffic control"); l.Status != "found" {
		t.Errorf("%+v", l)
	}
	for _, m := range []struct {
		name   string
		needed bool
		hidden hidden
		remedy string
		// also is what cannot be there without it.
		also string
	}{
		{"privileges", true, hidden{as: "setpriv --bounding-set=-sys_admin --inh-caps=-sys_admin"}, "run runcvm as root", "traffic control"},
		{"firecracker-qemu", true, hidden{files: []string{"bin/firecracker-qemu"}}, "make install", ""},
		{"QEMU", true, hidden{files: []string{"path/qemu-system-x86_64"}}, "apt-get install qemu-system-x86", ""},
		{"guest kernel", true, hidden{files: []string{"kernel"}}, "apt-get install linux-image-cloud-amd64", ""},
		{"guest agent", true, hidden{files: []string{"bin/runcvm-guest"}, script: agentElsewhere}, "make install", ""},
		{"crun", true, hidden{files: []string{"path/crun"}}, "apt-get install crun", ""},
		{"mke2fs", true, hidden{files: []string{"path/mke2fs"}}, "apt-get install e2fsprogs", ""},
		{"data_dir", true, hidden{script: `mount -t tmpfs -o ro tmpfs "$RUNCVM_DATA_DIR"`}, "RUNCVM_DATA_DIR", ""},
		{"data_dir", true, hidden{script: `mount -t tmpfs -o size=1m tmpfs "$RUNCVM_DATA_DIR"`}, "runcvm gc", ""},
		{"run_dir", true, hidden{script: `mount -t tmpfs -o ro tmpfs "$RUNCVM_RUN_DIR"`}, "RUNCVM_RUN_DIR", ""},
		{"Firecracker", false, hidden{files: []string{"path/firecracker"}}, "runcvm firecracker install", ""},
		{"jailer", false, hidden{files: []string{"path/jailer"}}, "runcvm firecracker install", ""},
		{"traffic control", false, hidden{as: "setpriv --bounding-set=-net_admin --inh-caps=-net_admin"}, "run as root", "privileges"},
		{"e2fsck", false, hidden{files: []string{"path/e2fsck"}}, "apt-get install e2fsprogs", ""},
		{"debugfs", false, hidden{files: []string{"path/debugfs"}}, "apt-get install e2fsprogs", ""},
		{"KVM", false, hidden{device: "kvm"}, "", ""},
		{"tun", false, hidden{device: "net/tun"}, "modprobe tun", ""},
		{"fuse", false, hidden{device: "fuse"}, "modprobe fuse", ""},
	} {
		t.Run(m.name, func(t *testing.T) {
			after := c.doctor(t, m.hidden, "RUNCVM_EMULATION=always")
			var more []string
			for _, name := range after.missing(false) {
				// What this host lacks anyway, as KVM on most, says nothing.
				if name == m.name || name != m.also && !slices.Contains(before.missing(false), name) {
					more = append(more, name)
				}
			}
			if !slices.Equal(more, []string{m.name}) {
				t.Errorf("missing are %v, want %s alone", more, m.name)
			}
			if l := after.line(t, m.name); l.Needed != m.needed || !strings.Contains(l.Remedy, m.remedy) {
				t.Errorf("%+v", l)
			}
			if after.OK == m.needed {
				t.Errorf("ok is %t", after.OK)
			}
		})
	}
}

func TestWhatIsNeededFollowsTheSettings(t *testing.T) {
	c := newComplete(t)
	withoutFirecracker := hidden{files: []string{"path/firecracker"}}
	if r := c.doctor(t, withoutFirecracker, "RUNCVM_EMULATION=never"); r.OK || !slices.Contains(r.missing(true), "Firecracker") || r.Emulated {
		t.Errorf("without Firecracker and emulation: %+v", r)
	}
	r := c.doctor(t, withoutFirecracker, "RUNCVM_EMULATION=auto")
	if l := r.line(t, "firecracker-qemu"); !r.OK || !r.Emulated || l.Status != "warning" || !strings.Contains(l.Detail, "no security boundary") {
		t.Errorf("without Firecracker: %+v", r)
	}
	c.script("firecracker", "Firecracker v1.12.0")
	if l := c.doctor(t, hidden{}, "RUNCVM_EMULATION=never").line(t, "Firecracker"); l.Status != "missing" || !strings.Contains(l.Detail, "1.13.1") {
		t.Errorf("an old Firecracker: %+v", l)
	}
}

func TestEnginesAreSeen(t *testing.T) {
	c := newComplete(t)
	c.script("podman", "podman")
	r := c.doctor(t, hidden{script: `mount -t tmpfs tmpfs /etc; mkdir /etc/containers
		echo '[engine.runtimes]' >/etc/containers/containers.conf; echo 'runcvm = ["/x"]' >>/etc/containers/containers.conf`})
	if l := r.line(t, "Podman"); l.Status == "missing" || !strings.Contains(l.Detail, "/etc/containers/containers.conf") {
		t.Errorf("%+v", l)
	}
}
