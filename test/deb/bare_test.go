//go:build e2e

package deb

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/runcvm/runcvm/test/engines/engine"
	"github.com/runcvm/runcvm/test/harness"
)

const (
	// packageFile and nextFile are where the system has the package and its next version.
	packageFile = "/root/runcvm.deb"
	nextFile    = "/root/runcvm-next.deb"

	// userSettings are what a user has in the file of settings: busy machines emulate slowly.
	userSettings = "# Our own.\nboot_timeout = \"10m\"\n"

	dockerFile = "etc/docker/daemon.json"
	// dockerSettings are a user's, with a runtime that only has the same name as a program of ours.
	dockerSettings = "{\n  \"runtimes\": {\n    \"mine\": {\"path\": \"/usr/local/bin/runcvm\"}\n  }\n}\n"
	podmanFile     = "etc/containers/containers.conf.d/runcvm.conf"
)

// TestOnABareDebian is a package's whole life, in the order in which a user goes through it.
func TestOnABareDebian(t *testing.T) {
	s := newSystem(t)
	s.bring(file(t), packageFile)
	s.bring(next(t, file(t)), nextFile)
	s.bring(engine.Archive(t, engine.Busybox), "/root/busybox.tar")
	s.serve(packageFile)
	s.write(dockerFile, dockerSettings)
	s.write("etc/containers/containers.conf.d/other.conf", "# Another's.\n")
	before := s.files()

	s.waitsForWhatItDependsOn()
	s.run("dpkg", "--purge", "runcvm")
	s.same(before)

	s.installs()
	release := s.followsTheRemedies()
	s.registers()
	id := s.starts(release)
	s.upgrades(id)
	s.isRemoved(id)
	s.comesBack(id)
	s.run("dpkg", "--purge", "runcvm")
	if status := s.status(); status != "" {
		t.Errorf("after a purge, its status is %s", status)
	}
	s.same(before)
}

// expectDoctor runs doctor, which is to end with this code, and to have these lines, each with what its remedy begins with.
func (s *system) expectDoctor(code int, lines map[string]string) {
	s.t.Helper()
	r := s.try("runcvm", "doctor")
	if r.Code != code || r.Stderr != "" {
		s.t.Errorf("doctor: exit code %d, want %d; %s", r.Code, code, r.Stderr)
	}
	for line, remedy := range lines {
		status, name, _ := strings.Cut(line, " ")
		want := fmt.Sprintf(`(?m)^%s +%s  +\S`, status, regexp.QuoteMeta(name))
		if remedy != "" {
			want += `.*\n +-> ` + regexp.QuoteMeta(remedy)
		}
		if !regexp.MustCompile(want).MatchString(r.Stdout) {
			s.t.Errorf("doctor does not say that %s, with the remedy %q", line, remedy)
		}
	}
	if s.t.Failed() {
		s.t.Fatalf("doctor says:\n%s", r.Stdout)
	}
}

// waitsForWhatItDependsOn: dpkg alone unpacks the package but does not configure it, and doctor tells what the system lacks.
func (s *system) waitsForWhatItDependsOn() {
	s.t.Helper()
	r := s.try("dpkg", "--install", packageFile)
	for _, name := range []string{"crun", "e2fsprogs"} {
		if want := "runcvm depends on " + name; r.Code == 0 || !strings.Contains(r.Stderr, want) {
			s.t.Fatalf("dpkg --install: exit code %d, without %q\n%s", r.Code, want, r.Stderr)
		}
	}
	s.expectDoctor(1, map[string]string{
		"optional Firecracker":     "runcvm firecracker install",
		"optional jailer":          "runcvm firecracker install",
		"warning firecracker-qemu": "for a boundary",
		"missing QEMU":             "apt-get install qemu-system-x86",
		"missing guest kernel":     "apt-get install linux-image-cloud-amd64",
		"found guest agent":        "",
		"missing crun":             "apt-get install crun",
		"missing mke2fs":           "apt-get install e2fsprogs",
		"optional e2fsck":          "apt-get install e2fsprogs",
		"optional debugfs":         "apt-get install e2fsprogs",
		"optional CNI plugins":     "apt-get install containernetworking-plugins",
	})
}

// installs by apt, as docs/docker.md says. That brings what the package depends on and recommends, but for a kernel, of which the
// archive has none, as the machine has not.
func (s *system) installs() {
	s.t.Helper()
	s.run("apt-get", "install", "--quiet", "--yes", packageFile)
	if status := s.status(); status != "ii" {
		s.t.Fatalf("after apt-get install, its status is %s", status)
	}
	version := strings.TrimSpace(s.run("dpkg-query", "-W", "-f", "${Version}", "runcvm"))
	// 0.0.0~20260102030405.0123456789ab is the package of v0.0.0-20260102030405-0123456789ab.
	told := strings.NewReplacer("-", ".").Replace(strings.Replace(s.run("runcvm", "--version"), "-", "~", 1))
	if want := "runcvm version v" + version + "\n"; told != want {
		s.t.Errorf("the program's version becomes %q, want %q", told, want)
	}
	s.expectDoctor(1, map[string]string{
		"optional Firecracker": "runcvm firecracker install",
		"missing guest kernel": "apt-get install linux-image-cloud-amd64",
		"found guest agent":    "", "found QEMU": "", "found crun": "", "found mke2fs": "", "found e2fsck": "", "found debugfs": "",
	})
}

// followsTheRemedies does what doctor says of the last thing that is missing, with which containers can run. It returns the guests'
// kernel's release.
func (s *system) followsTheRemedies() string {
	s.t.Helper()
	kernel := os.Getenv("RUNCVM_KERNEL")
	if kernel == "" {
		kernel = "/usr/local/lib/runcvm/kernel"
	}
	if _, err := s.Host.Run("mount", "--bind", kernel, s.path("mnt")); err != nil {
		s.t.Fatal(err)
	}
	name := strings.TrimSpace(s.run("runcvm", "kernel", "import", "/mnt")) // without --name, the release
	s.run("runcvm", "kernel", "default", name)
	s.expectDoctor(0, map[string]string{"found guest kernel": "", "optional Docker": "", "optional Podman": ""})
	if r := s.try("runcvm", "config", "show"); r.Code != 0 || r.Stderr != "" {
		s.t.Errorf("config show: exit code %d: %s", r.Code, r.Stderr)
	}
	return name
}

// registers the runtime with engines, which come later.
func (s *system) registers() {
	s.t.Helper()
	s.run("runcvm", "install", "docker")
	s.run("runcvm", "install", "podman")
	for _, name := range []string{dockerFile, podmanFile} {
		if text := s.read(name); !strings.Contains(text, `"/usr/bin/runcvm"`) {
			s.t.Errorf("%s has no runtime of the package: %s", name, text)
		}
	}
}

// starts a container, whose kernel is the guest's.
func (s *system) starts(release string) string {
	s.t.Helper()
	s.write(settings, userSettings)
	s.run("runcvm", "import", "/root/busybox.tar", engine.Busybox)
	const command = `trap 'echo ended; exit 7' TERM; uname -r; while :; do sleep 1000 & wait $!; done`
	id := strings.TrimSpace(s.run("runcvm", "run", "--detach", engine.Busybox, "sh", "-c", command))
	harness.Eventually(s.t, harness.Patience, func() error {
		if out := s.run("runcvm", "logs", id); out != release+"\n" {
			return fmt.Errorf("the container says %q, want its kernel, %s", out, release)
		}
		return nil
	})
	return id
}

// upgrades to a version with another file of settings: what the user has changed stays, and what runs goes on.
func (s *system) upgrades(id string) {
	s.t.Helper()
	s.run("apt-get", "install", "--quiet", "--yes", "--option", "Dpkg::Options::=--force-confdef", nextFile)
	if version := s.run("dpkg-query", "-W", "-f", "${Version}", "runcvm"); version != nextVersion {
		s.t.Errorf("after the upgrade, the version is %s", version)
	}
	if text := s.read(settings); text != userSettings {
		s.t.Errorf("after the upgrade, the settings are %s", text)
	}
	if text := s.read(settings + ".dpkg-dist"); !strings.HasSuffix(text, nextSettings) {
		s.t.Errorf("the new settings are not beside them: %s", text)
	}
	if out := s.run("runcvm", "exec", id, "echo", "alive"); out != "alive\n" {
		s.t.Errorf("after the upgrade, exec says %q", out)
	}
	s.expectDoctor(0, nil)
}

// isRemoved: the container is stopped, the engines have what they had, and what the user made stays.
func (s *system) isRemoved(id string) {
	s.t.Helper()
	s.run("dpkg", "--remove", "runcvm")
	if status := s.status(); status != "rc" {
		s.t.Errorf("after its removal, its status is %s", status)
	}
	if left := s.Processes(); len(left) > 0 {
		s.t.Errorf("processes are left: %v", left)
	}
	if left := s.Cgroups(); len(left) > 0 {
		s.t.Errorf("cgroups are left: %v", left)
	}
	if text := s.read(dockerFile); text != dockerSettings {
		s.t.Errorf("%s was\n%sand is\n%s", dockerFile, dockerSettings, text)
	}
	if _, err := os.Stat(s.path(podmanFile)); !os.IsNotExist(err) {
		s.t.Errorf("%s: %v; want it gone", podmanFile, err)
	}
	if text := s.read(settings); text != userSettings {
		s.t.Errorf("after its removal, the settings are %s", text)
	}
	if _, err := os.Stat(s.path(filepath.Join("var/lib/runcvm/containers", id))); err != nil {
		s.t.Error(err)
	}
	for _, name := range programs {
		if _, err := os.Lstat(s.path(name)); !os.IsNotExist(err) {
			s.t.Errorf("%s: %v; want it gone", name, err)
		}
	}
}

// comesBack: the container and its image are there again. It had been asked to end, not killed.
func (s *system) comesBack(id string) {
	s.t.Helper()
	s.run("dpkg", "--force-confdef", "--install", packageFile) // the settings are neither version's
	if out := s.run("runcvm", "ps", "--all", "--no-trunc", "--format", "{{.ID}} {{.Status}}"); !strings.HasPrefix(out, id+" Exited (7)") {
		s.t.Errorf("ps says %q, want that %s exited with 7", out, id)
	}
	if out := s.run("runcvm", "logs", id); !strings.HasSuffix(out, "\nended\n") {
		s.t.Errorf("its log is %q", out)
	}
	if out := s.run("runcvm", "images"); !strings.Contains(out, strings.TrimSuffix(engine.Busybox, ":1")) {
		s.t.Errorf("the images are %s", out)
	}
}
