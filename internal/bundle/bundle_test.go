package bundle

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/runcvm/runcvm/internal/guestapi"
)

// example is a config.json of an engine's, in testdata/engines. What it names of the host is not looked at.
func example(t *testing.T, name string) (*Bundle, *report) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", "engines", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	b, r, err := parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return b, r
}

func guestSpec(t *testing.T, name string) *specs.Spec {
	t.Helper()
	b, r := example(t, name)
	if err := r.err(); err != nil {
		t.Fatal(err)
	}
	s, err := b.GuestSpec()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func mountAt(s *specs.Spec, destination string) specs.Mount {
	i := slices.IndexFunc(s.Mounts, func(m specs.Mount) bool { return m.Destination == destination })
	if i < 0 {
		return specs.Mount{}
	}
	return s.Mounts[i]
}

func TestWhatEnginesWriteByDefaultIsTaken(t *testing.T) {
	for _, name := range []string{"docker-20.10-default", "docker-20.10-tty", "docker-20.10-options", "docker-20.10-privileged",
		"podman-4.3-default", "podman-4.3-options", "podman-4.3-privileged", "runc-1.1-spec"} {
		b, r := example(t, name)
		if err := r.err(); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		s, err := b.GuestSpec()
		if err != nil {
			t.Fatal(err)
		}
		if s.Version != "1.0.2" || s.Process.Args != nil || !reflect.DeepEqual(s.Process.Env, b.Spec.Process.Env) ||
			s.Process.Cwd != b.Spec.Process.Cwd || s.Hostname != b.Spec.Hostname || len(s.Mounts) != len(b.Spec.Mounts) ||
			!reflect.DeepEqual(s.Linux.MaskedPaths, b.Spec.Linux.MaskedPaths) || !reflect.DeepEqual(s.Linux.Seccomp, b.Spec.Linux.Seccomp) ||
			!reflect.DeepEqual(s.Process.Rlimits, b.Spec.Process.Rlimits) || s.Process.Terminal != b.Spec.Process.Terminal ||
			!reflect.DeepEqual(s.Process.User, b.Spec.Process.User) || !reflect.DeepEqual(s.Process.Capabilities, b.Spec.Process.Capabilities) {
			t.Errorf("%s: %+v", name, s)
		}
		if s.Hooks != nil || s.Root.Path != "rootfs" || s.Linux.CgroupsPath != "" {
			t.Errorf("%s: something of the host's has come along: %+v", name, s)
		}
	}
}

func TestDockersOptions(t *testing.T) {
	s := guestSpec(t, "docker-20.10-options")
	if s.Linux.Sysctl["net.core.somaxconn"] != "7" || s.Linux.Sysctl["kernel.domainname"] != "d.example" || !s.Root.Readonly ||
		*s.Linux.Resources.Memory.Limit != 64<<20 || *s.Linux.Resources.CPU.Quota != 150000 || s.Linux.Resources.CPU.Shares != nil ||
		*s.Linux.Resources.Pids.Limit != 50 || s.Linux.Resources.BlockIO != nil || *s.Process.OOMScoreAdj != 100 || !s.Process.NoNewPrivileges {
		t.Errorf("%+v %+v", s.Linux, s.Process)
	}
	if m := mountAt(s, "/sbin/docker-init"); m.Type != "bind" || m.Source != "/.runcvm/copies/7" || !slices.Contains(m.Options, "ro") {
		t.Errorf("%+v", m)
	}
	if m := mountAt(s, "/x"); m.Type != "tmpfs" || !slices.Contains(m.Options, "exec") {
		t.Errorf("%+v", m)
	}
	b, _ := example(t, "docker-20.10-options")
	b.Spec.Linux.Resources.CPU.Burst = new(uint64(5000)) // which Docker has no option for
	if s, err := b.GuestSpec(); err != nil || s.Linux.Resources.Unified["cpu.max.burst"] != "5000" || s.Linux.Resources.CPU.Burst != nil {
		t.Errorf("a burst: %+v, %v", s.Linux.Resources, err)
	}
	var copies []string
	for _, c := range b.Copies() {
		copies = append(copies, c.Destination)
	}
	if want := []string{"/sbin/docker-init", "/etc/resolv.conf", "/etc/hostname", "/etc/hosts"}; !slices.Equal(copies, want) {
		t.Errorf("%q", copies)
	}
}

func TestPodmansSharedMemoryIsTheGuestsOwn(t *testing.T) {
	b, _ := example(t, "podman-4.3-default")
	for _, m := range b.Spec.Mounts {
		if m.Destination == "/dev/shm" {
			b.shm[m.Source] = 1000 << 10
		}
	}
	s, err := b.GuestSpec()
	if err != nil {
		t.Fatal(err)
	}
	if m := mountAt(s, "/dev/shm"); m.Type != "tmpfs" || !slices.Contains(m.Options, "size=1024000") || slices.Contains(m.Options, "bind") {
		t.Errorf("%+v", m)
	}
}

func TestPrivilegedIsAllOfTheGuestAndNothingOfTheHost(t *testing.T) {
	for _, name := range []string{"docker-20.10-privileged", "podman-4.3-privileged"} {
		s := guestSpec(t, name)
		if s.Annotations[guestapi.DevicesAnnotation] != guestapi.GuestDevices || s.Linux.Devices != nil || s.Linux.Seccomp != nil ||
			len(s.Linux.Resources.Devices) != 1 || !s.Linux.Resources.Devices[0].Allow {
			t.Errorf("%s: %+v", name, s.Linux)
		}
		_, r := example(t, name)
		if !slices.ContainsFunc(r.notes, func(n string) bool { return strings.HasPrefix(n, "linux.devices: privileged") }) {
			t.Errorf("%s: no word of the devices in %q", name, r.notes)
		}
	}
	if s := guestSpec(t, "docker-20.10-default"); s.Annotations[guestapi.DevicesAnnotation] != "" {
		t.Error("a container has all devices without asking")
	}
}

func TestWhatIsTheHostsIsRefusedAllAtOnce(t *testing.T) {
	for name, want := range map[string][]string{
		"docker-20.10-host":    {"none of type pid", "none of type ipc", "none of type uts", "mounts[9]: /dev/shm is bound"},
		"podman-4.3-host":      {"none of type pid", "none of type network", "none of type ipc", "none of type uts"},
		"docker-20.10-volumes": {"mounts[8]: /var/lib/docker/volumes/vol/_data is bound to /c for writing", "mounts[10]: /srv/data is bound to /a for writing"},
		"podman-4.3-volumes":   {"/srv/data is bound to /a for writing", "_data is bound to /c for writing"},
	} {
		_, r := example(t, name)
		for _, w := range want {
			if r.err() == nil || !strings.Contains(r.err().Error(), w) {
				t.Errorf("%s: no %q in\n%v", name, w, r.err())
			}
		}
		if r.err() != nil && (strings.Contains(r.err().Error(), "/b") || strings.Contains(r.err().Error(), "fuse")) {
			t.Errorf("%s: too much is refused:\n%v", name, r.err())
		}
	}
}

// write makes a bundle of a specification.
func write(t *testing.T, s *specs.Spec) string {
	t.Helper()
	dir := t.TempDir()
	raw, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestLoadLooksAtWhatTheBundleNames(t *testing.T) {
	b, _ := example(t, "runc-1.1-spec")
	files := t.TempDir()
	if err := os.WriteFile(filepath.Join(files, "file"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	bind := func(source string) specs.Mount {
		return specs.Mount{Destination: "/m", Type: "bind", Source: source, Options: []string{"rbind", "ro"}}
	}
	b.Spec.Mounts = append(b.Spec.Mounts, bind(filepath.Join(files, "file")), bind("of-the-bundle"))
	dir := write(t, b.Spec)
	for _, d := range []string{"rootfs", "of-the-bundle"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	got, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got.Rootfs != filepath.Join(dir, "rootfs") || got.Dir != dir {
		t.Errorf("%+v", got)
	}
	if c := got.Copies(); len(c) != 2 || c[0].Directory || !c[1].Directory || c[1].Source != filepath.Join(dir, "of-the-bundle") {
		t.Errorf("%+v", c)
	}

	b.Spec.Mounts = append(b.Spec.Mounts, bind("/nowhere"), bind("/dev/null"), bind("/proc/self"))
	b.Spec.Root.Path = "elsewhere"
	b.Spec.Linux.Namespaces = append(b.Spec.Linux.Namespaces[:1:1], specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: "/proc/1/../self/ns/net"})
	_, err = Load(write(t, b.Spec))
	if err == nil {
		t.Fatal("taken")
	}
	for _, want := range []string{"elsewhere: it is missing on the host", "/nowhere: it is missing on the host", "a device of the host's",
		"the host's /proc", "it is the host's, which a guest has no part in"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in\n%v", want, err)
		}
	}
}

func TestAMonitorIsInTheContainersNetworkAlready(t *testing.T) {
	b, _ := example(t, "runc-1.1-spec")
	b.Spec.Linux.Namespaces = slices.DeleteFunc(b.Spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.NetworkNamespace })
	path := filepath.Join(t.TempDir(), "net")
	if err := os.Symlink("/proc/self/ns/net", path); err != nil {
		t.Fatal(err)
	}
	b.Spec.Linux.Namespaces = append(b.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: path})
	dir := write(t, b.Spec)
	if err := os.Mkdir(filepath.Join(dir, "rootfs"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := load(dir, false); err == nil || !strings.Contains(err.Error(), "it is the host's") {
		t.Errorf("%v", err)
	}
	got, err := load(dir, true)
	if err != nil {
		t.Fatal(err)
	}
	if where, fresh := got.NetworkNamespace(); where != path || fresh {
		t.Errorf("%s, %t", where, fresh)
	}
}

func TestConfigsThatAreNone(t *testing.T) {
	dir := t.TempDir()
	if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), "not found") || strings.Contains(err.Error(), "no such file") {
		t.Errorf("%v", err)
	}
	for _, text := range []string{"", "null", "[]", "{", `{"ociVersion":"1.0.0"}{}`, "{\"hostname\":\"\xff\"}", `{"process":{"args":"x"}}`} {
		if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), "config.json") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestUnknownPropertiesAreIgnoredWithANote(t *testing.T) {
	_, r, err := parse([]byte(`{"ociVersion":"1.9.0","new":1,"mounts":[{"destination":"/x","type":"tmpfs"},{"flags":[]}],"linux":{"TimeOffsets":{"monotonic":{"x":1}}},` +
		`"annotations":{"a":"b"}}`))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, n := range r.notes {
		if where, text, _ := strings.Cut(n, ": "); strings.HasPrefix(text, "no property") {
			got = append(got, where)
		}
	}
	if want := []string{`linux.timeOffsets["monotonic"].x`, "mounts[1].flags", "new"}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

func FuzzLoad(f *testing.F) {
	examples, err := filepath.Glob("testdata/engines/*.json")
	if err != nil || len(examples) == 0 {
		f.Fatal("no examples", err)
	}
	for _, e := range examples {
		raw, err := os.ReadFile(e)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		b, r, err := parse(raw)
		if err != nil || r.err() != nil {
			return
		}
		b.look(&report{})
		s, err := b.GuestSpec()
		if err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if s.Process.Args != nil || s.Linux.Seccomp != nil && s.Linux.Seccomp.ListenerPath != "" {
			t.Errorf("%s", text)
		}
		for _, m := range s.Mounts {
			if isBind(m) && !strings.HasPrefix(m.Source, "/"+guestapi.CopiesDir+"/") {
				t.Errorf("a bind mount of %s in the guest", m.Source)
			}
		}
	})
}
