package bundle

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// with is what `runc spec` writes, changed.
func with(t *testing.T, change func(*specs.Spec)) (*Bundle, *report) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", "engines", "runc-1.1-spec.json"))
	if err != nil {
		t.Fatal(err)
	}
	var s specs.Spec
	if err := json.Unmarshal(raw, &s); err != nil {
		t.Fatal(err)
	}
	change(&s)
	if raw, err = json.Marshal(s); err != nil {
		t.Fatal(err)
	}
	b, r, err := parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return b, r
}

// verdicts are changes of a specification by what is said of them: "" that they are taken, "note: " and a part of a note, or a part of
// the error.
type verdicts map[string]struct {
	change func(*specs.Spec)
	want   string
}

func (v verdicts) run(t *testing.T) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(v)) {
		_, r := with(t, v[name].change)
		err, want := r.err(), v[name].want
		note, noted := strings.CutPrefix(want, "note: ")
		switch {
		case noted:
			if err != nil || !slices.ContainsFunc(r.notes, func(n string) bool { return strings.Contains(n, note) }) {
				t.Errorf("%s: no note %q in %q, %v", name, note, r.notes, err)
			}
		case want == "":
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
		case err == nil || !strings.Contains(err.Error(), want):
			t.Errorf("%s: no %q in %v", name, want, err)
		case len(r.faults) != 1:
			t.Errorf("%s: more than one fault: %v", name, err)
		}
	}
}

func TestVersions(t *testing.T) {
	for version, ok := range map[string]bool{"1.0.0": true, "1.0.2-dev": true, "1.3.0": true, "1.99.0": true, "1.0.0-rc1": true, "1.2.1+dev": true, "": false,
		"1": false, "1.0": false, "0.9.0": false, "2.0.0": false, "invalid": false, "1.01.0": false, "1.0.0\n": false} {
		_, r := with(t, func(s *specs.Spec) { s.Version = version })
		if (r.err() == nil) != ok {
			t.Errorf("%q: %v", version, r.err())
		}
	}
}

func TestProcesses(t *testing.T) {
	process := func(change func(*specs.Process)) func(*specs.Spec) { return func(s *specs.Spec) { change(s.Process) } }
	verdicts{
		"none":              {func(s *specs.Spec) { s.Process = nil }, "process: it is missing"},
		"no command":        {process(func(p *specs.Process) { p.Args = nil }), "process.args: there is no command"},
		"an empty command":  {process(func(p *specs.Process) { p.Args = []string{""} }), "process.args: there is no command"},
		"NUL":               {process(func(p *specs.Process) { p.Args = []string{"a\x00"} }), "holds a NUL byte"},
		"relative":          {process(func(p *specs.Process) { p.Cwd = "x" }), "process.cwd"},
		"no name":           {process(func(p *specs.Process) { p.Env = []string{"x"} }), "is not NAME=value"},
		"no such limit":     {process(func(p *specs.Process) { p.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_TEST"}} }), "process.rlimits[0].type"},
		"limit two times":   {process(func(p *specs.Process) { p.Rlimits = append(p.Rlimits, p.Rlimits[0]) }), "is there already"},
		"new capability":    {process(func(p *specs.Process) { p.Capabilities.Bounding = []string{"CAP_NEW"} }), "note: CAP_NEW"},
		"AppArmor":          {process(func(p *specs.Process) { p.ApparmorProfile = "docker-default" }), "note: process.apparmorProfile"},
		"SELinux":           {process(func(p *specs.Process) { p.SelinuxLabel = "x" }), "note: process.selinuxLabel"},
		"scheduler":         {process(func(p *specs.Process) { p.Scheduler = &specs.Scheduler{Policy: specs.SchedBatch} }), "process.scheduler: start"},
		"adjusted too much": {process(func(p *specs.Process) { p.OOMScoreAdj = new(-1001) }), "process.oomScoreAdj"},
		"adjusted":          {process(func(p *specs.Process) { p.OOMScoreAdj = new(-500) }), ""},
		"large terminal":    {process(func(p *specs.Process) { p.ConsoleSize = &specs.Box{Height: 1 << 16} }), "process.consoleSize"},
	}.run(t)
}

func TestNamespaces(t *testing.T) {
	without := func(kind specs.LinuxNamespaceType) func(*specs.Spec) {
		return func(s *specs.Spec) {
			s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == kind })
		}
	}
	one := func(kind specs.LinuxNamespaceType, path string) func(*specs.Spec) {
		return func(s *specs.Spec) {
			without(kind)(s)
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: kind, Path: path})
		}
	}
	verdicts{
		"the host's pids":        {without("pid"), "no --pid host"},
		"the host's ipc":         {without("ipc"), "no --ipc host"},
		"the host's uts":         {without("uts"), "no --uts host"},
		"the host's network":     {without("network"), "no --network host"},
		"the host's cgroups":     {without("cgroup"), "note: none of type cgroup"},
		"the host's mounts":      {without("mount"), "note: none of type mount"},
		"a network":              {one("network", "/run/netns/x"), ""},
		"a container's network":  {one("network", "/proc/17/ns/net"), "--network container:X"},
		"a thread's network":     {one("network", "/proc/17/task/18/ns/net"), "--network container:X"},
		"a container's ipc":      {one("ipc", "/proc/17/ns/ipc"), "no --ipc container:X"},
		"a container's pids":     {one("pid", "/proc/17/ns/pid"), "no --pid container:X"},
		"of time":                {one("time", ""), "note: the guest's clocks"},
		"of time, a container's": {one("time", "/proc/17/ns/time"), "namespace of the host's"},
		"of users":               {one("user", ""), "userns-remap"},
		"of a kind to come":      {one("other", ""), `type "other" is unknown`},
		"two of a kind": {func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: "pid"})
		},
			`there is one of type "pid" already`},
	}.run(t)
}

func TestMounts(t *testing.T) {
	const docker = "/var/lib/docker/containers/0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef/"
	const podman = "/run/containers/storage/overlay-containers/x/userdata/"
	mount := func(destination, kind, source string, options ...string) func(*specs.Spec) {
		return func(s *specs.Spec) {
			s.Mounts = []specs.Mount{{Destination: destination, Type: kind, Source: source, Options: options}}
		}
	}
	verdicts{
		"tmpfs":                      {mount("/x", "tmpfs", "tmpfs", "size=1m", "tmpcopyup"), ""},
		"a disk":                     {mount("/x", "ext4", "/dev/sda1"), `of type "ext4"`},
		"nothing":                    {mount("/x", "", ""), `of type ""`},
		"relative":                   {mount("x", "tmpfs", ""), "mounts[0].destination"},
		"over everything":            {mount("/", "tmpfs", ""), "mounts[0].destination"},
		"read-only bind":             {mount("/x", "bind", "/srv", "rbind", "ro"), "note: /srv is copied to /x"},
		"read-only, by options":      {mount("/x", "none", "/srv", "rbind", "rro"), "note: /srv is copied to /x"},
		"without a source":           {mount("/x", "bind", "", "ro"), "mounts[0].source"},
		"writable bind":              {mount("/x", "bind", "/srv", "rbind", "rw"), "mounts[0]: /srv is bound to /x for writing"},
		"mapped bind":                {mount("/x", "bind", "/srv", "ro", "idmap"), "mapping of ids"},
		"Docker's hosts":             {mount("/etc/hosts", "bind", docker+"hosts", "rbind"), "note: is copied to /etc/hosts"},
		"Podman's hosts":             {mount("/etc/hosts", "bind", podman+"hosts", "bind"), "note: is copied to /etc/hosts"},
		"Podman's secrets":           {mount("/run/secrets", "bind", podman+"run/secrets", "bind"), "note: is copied to /run/secrets"},
		"one's own hosts":            {mount("/etc/hosts", "bind", "/srv/hosts", "rbind"), "for writing"},
		"Docker's file elsewhere":    {mount("/etc/x", "bind", docker+"hosts", "rbind"), "for writing"},
		"Podman's shared memory":     {mount("/dev/shm", "bind", podman+"shm", "bind"), "note: /dev/shm is the guest's own"},
		"Docker's shared memory":     {mount("/dev/shm", "bind", docker+"mounts/shm", "rbind"), "note: /dev/shm is the guest's own"},
		"the host's shared memory":   {mount("/dev/shm", "bind", "/dev/shm", "rbind"), "for writing"},
		"a label":                    {mount("/x", "tmpfs", "tmpfs", `context="system_u:object_r:x"`), "note: the label of SELinux"},
		"the version 2 of cgroups":   {mount("/sys/fs/cgroup", "cgroup2", "cgroup2", "ro"), ""},
		"with owners of another map": {func(s *specs.Spec) { s.Mounts[0].UIDMappings = []specs.LinuxIDMapping{{Size: 1}} }, "mounts[0].uidMappings"},
	}.run(t)
}

func TestMountsInTheGuest(t *testing.T) {
	b, r := with(t, func(s *specs.Spec) {
		s.Mounts = []specs.Mount{
			{Destination: "/a", Type: "tmpfs", Options: []string{"context=x", "size=1m"}},
			{Destination: "/b", Type: "bind", Source: "/srv", Options: []string{"ro"}},
			{Destination: "/sys/fs/cgroup", Type: "cgroup2", Source: "cgroup2"},
		}
	})
	if err := r.err(); err != nil {
		t.Fatal(err)
	}
	s, err := b.GuestSpec()
	if err != nil {
		t.Fatal(err)
	}
	want := `[{"destination":"/a","type":"tmpfs","source":"tmpfs","options":["size=1m"]},` +
		`{"destination":"/b","type":"bind","source":"/.runcvm/copies/1","options":["ro","rbind"]},` +
		`{"destination":"/sys/fs/cgroup","type":"cgroup","source":"cgroup2"}]`
	if got, _ := json.Marshal(s.Mounts); string(got) != want {
		t.Errorf("%s", got)
	}
}

func TestDevices(t *testing.T) {
	device := func(kind string, major, minor int64) func(*specs.Spec) {
		return func(s *specs.Spec) {
			s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/x", Type: kind, Major: major, Minor: minor, FileMode: new(os.FileMode(0o20666))}}
		}
	}
	all := func(rules ...specs.LinuxDeviceCgroup) func(*specs.Spec) {
		return func(s *specs.Spec) {
			device("b", 8, 0)(s)
			s.Linux.Resources.Devices = rules
		}
	}
	verdicts{
		"fuse":             {device("c", 10, 229), ""},
		"tun":              {device("u", 10, 200), ""},
		"a FIFO":           {device("p", 0, 0), ""},
		"a disk":           {device("b", 8, 0), "linux.devices[0]: /dev/x (b 8:0) is a device of the host's"},
		"a loop device":    {device("b", 7, 0), "is a device of the host's"},
		"of no kind":       {device("x", 1, 1), "linux.devices[0].type"},
		"relative":         {func(s *specs.Spec) { s.Linux.Devices = []specs.LinuxDevice{{Path: "x", Type: "p"}} }, "linux.devices[0].path"},
		"privileged":       {all(specs.LinuxDeviceCgroup{Allow: true, Access: "rwm"}), "note: privileged"},
		"all, by its name": {all(specs.LinuxDeviceCgroup{Type: "a", Major: new(int64(-1)), Allow: true, Access: "rwm"}), "note: privileged"},
		"all to read":      {all(specs.LinuxDeviceCgroup{Allow: true, Access: "r"}), "is a device of the host's"},
		"all, and then not": {all(specs.LinuxDeviceCgroup{Allow: true, Access: "rwm"}, specs.LinuxDeviceCgroup{Allow: false, Access: "rwm"}),
			"is a device of the host's"},
	}.run(t)
	b, _ := with(t, device("c", 10, 229))
	s, err := b.GuestSpec()
	if err != nil {
		t.Fatal(err)
	}
	if d := s.Linux.Devices; len(d) != 1 || *d[0].FileMode != 0o666 {
		t.Errorf("%+v", d)
	}
	if r := s.Linux.Resources.Devices; r[0].Allow || r[0].Access != "rwm" || len(r) < 10 {
		t.Errorf("%+v", r)
	}
}

func TestHooks(t *testing.T) {
	verdicts{
		"on the host":      {func(s *specs.Spec) { s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/true"}}} }, ""},
		"in the container": {func(s *specs.Spec) { s.Hooks = &specs.Hooks{StartContainer: []specs.Hook{{Path: "/bin/true"}}} }, ""},
		"in between":       {func(s *specs.Spec) { s.Hooks = &specs.Hooks{CreateContainer: []specs.Hook{{Path: "/bin/true"}}} }, "hooks.createContainer"},
		"relative":         {func(s *specs.Spec) { s.Hooks = &specs.Hooks{Poststop: []specs.Hook{{Path: "true"}}} }, "hooks.poststop[0].path"},
		"without time":     {func(s *specs.Spec) { s.Hooks = &specs.Hooks{Poststop: []specs.Hook{{Path: "/x", Timeout: new(0)}}} }, "hooks.poststop[0].timeout"},
		"of a graphics card": {func(s *specs.Spec) {
			s.Hooks = &specs.Hooks{Prestart: []specs.Hook{{Path: "/usr/bin/nvidia-container-runtime-hook"}}} //nolint:staticcheck // what it is
		}, "hooks.prestart[0]: "},
	}.run(t)
	b, _ := with(t, func(s *specs.Spec) {
		s.Hooks = &specs.Hooks{Poststop: []specs.Hook{{Path: "/host"}}, StartContainer: []specs.Hook{{Path: "/guest", Args: []string{"x"}, Env: []string{"a=b"}}}}
	})
	s, err := b.GuestSpec()
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := json.Marshal(s.Hooks); string(got) != `{"startContainer":[{"path":"/guest","args":["x"],"env":["a=b"]}]}` {
		t.Errorf("%s", got)
	}
}

func TestWhatTheGuestsKernelIsAsked(t *testing.T) {
	linux := func(change func(*specs.Linux)) func(*specs.Spec) { return func(s *specs.Spec) { change(s.Linux) } }
	sysctl := func(key, value string) func(*specs.Spec) {
		return linux(func(l *specs.Linux) { l.Sysctl = map[string]string{key: value} })
	}
	seccomp := func(p specs.LinuxSeccomp) func(*specs.Spec) { return linux(func(l *specs.Linux) { l.Seccomp = &p }) }
	unified := func(key string) func(*specs.Spec) {
		return linux(func(l *specs.Linux) { l.Resources.Unified = map[string]string{key: "1"} })
	}
	time := func(quota int64, period uint64) func(*specs.Spec) {
		return linux(func(l *specs.Linux) { l.Resources.CPU = &specs.LinuxCPU{Quota: &quota, Period: &period} })
	}
	verdicts{
		"of the network":        {sysctl("net.ipv4.ip_forward", "1"), ""},
		"of no namespace":       {sysctl("vm/max_map_count", "1"), ""},
		"no parameter":          {sysctl("../x", "1"), `linux.sysctl["../x"]: no name`},
		"the host name":         {sysctl("kernel.hostname", "x"), "give hostname instead"},
		"the domain name":       {sysctl("kernel.domainname", "x"), ""},
		"two domain names":      {func(s *specs.Spec) { sysctl("kernel.domainname", "x")(s); s.Domainname = "y" }, "it contradicts domainname"},
		"a profile":             {seccomp(specs.LinuxSeccomp{DefaultAction: "SCMP_ACT_ALLOW", Flags: []specs.LinuxSeccompFlag{"SECCOMP_FILTER_FLAG_LOG"}}), ""},
		"a profile without":     {seccomp(specs.LinuxSeccomp{}), "linux.seccomp: defaultAction is missing"},
		"a flag to come":        {seccomp(specs.LinuxSeccomp{DefaultAction: "SCMP_ACT_ALLOW", Flags: []specs.LinuxSeccompFlag{"X"}}), "linux.seccomp.flags[0]"},
		"a listener":            {seccomp(specs.LinuxSeccomp{DefaultAction: "SCMP_ACT_ALLOW", ListenerPath: "/x"}), "linux.seccomp.listenerPath"},
		"a notification":        {seccomp(specs.LinuxSeccomp{DefaultAction: "SCMP_ACT_ALLOW", Syscalls: []specs.LinuxSyscall{{Names: []string{"mount"}, Action: "SCMP_ACT_NOTIFY"}}}), "SCMP_ACT_NOTIFY of mount"},
		"a file of the cgroup":  {unified("memory.high"), ""},
		"one of the host's":     {unified("io.max"), `linux.resources.unified["io.max"]`},
		"one elsewhere":         {unified("memory/../x"), "linux.resources.unified"},
		"without OOM killer":    {linux(func(l *specs.Linux) { l.Resources.Memory = &specs.LinuxMemory{DisableOOMKiller: new(true)} }), "--oom-kill-disable"},
		"swappiness":            {linux(func(l *specs.Linux) { l.Resources.Memory = &specs.LinuxMemory{Swappiness: new(uint64(1))} }), "note: no swap"},
		"a short quota":         {time(999, 0), "linux.resources.cpu.quota: 999; it is at least 1000"},
		"a short period":        {time(0, 999), "linux.resources.cpu.period: 999; it is from 1000 to 1000000"},
		"a long period":         {time(-1, 1_000_001), "linux.resources.cpu.period: 1000001; it is from 1000 to 1000000"},
		"the shortest":          {time(1000, 1000), ""},
		"the longest":           {time(1000, 1_000_000), ""},
		"no limit of time":      {time(-1, 0), ""},
		"processors":            {linux(func(l *specs.Linux) { l.Resources.CPU = &specs.LinuxCPU{Cpus: "0-x"} }), "linux.resources.cpu.cpus"},
		"no path":               {linux(func(l *specs.Linux) { l.MaskedPaths = []string{"x"} }), "linux.maskedPaths[0]"},
		"propagation":           {linux(func(l *specs.Linux) { l.RootfsPropagation = "rslave" }), ""},
		"another propagation":   {linux(func(l *specs.Linux) { l.RootfsPropagation = "x" }), "linux.rootfsPropagation"},
		"another clock":         {linux(func(l *specs.Linux) { l.TimeOffsets = map[string]specs.LinuxTimeOffset{"monotonic": {Secs: 1}} }), "linux.timeOffsets: "},
		"our annotation":        {func(s *specs.Spec) { s.Annotations = map[string]string{"dev.runcvm.user": "x"} }, `annotations["dev.runcvm.user"]`},
		"crun's annotation":     {func(s *specs.Spec) { s.Annotations = map[string]string{"run.oci.handler": "x"} }, "note: an instruction for crun"},
		"another's annotation":  {func(s *specs.Spec) { s.Annotations = map[string]string{"x": ""} }, ""},
		"a long host name":      {func(s *specs.Spec) { s.Hostname = strings.Repeat("x", 65) }, "hostname"},
		"of another system":     {func(s *specs.Spec) { s.Windows = &specs.Windows{Servicing: true} }, "windows: the container is Linux's"},
		"without a file system": {func(s *specs.Spec) { s.Root = nil }, "root.path"},
	}.run(t)
}

func TestFurtherProcesses(t *testing.T) {
	p := &specs.Process{Args: []string{"ls"}, Cwd: "/", User: specs.User{UID: 1}, ApparmorProfile: "x",
		Capabilities: &specs.LinuxCapabilities{Bounding: []string{"CAP_KILL", "CAP_NEW"}}}
	got, notes, err := GuestProcess(p)
	if err != nil || len(notes) != 2 || got.ApparmorProfile != "" || got.User.UID != 1 || !slices.Equal(got.Args, p.Args) ||
		!slices.Equal(got.Capabilities.Bounding, []string{"CAP_KILL"}) {
		t.Errorf("%+v, %q, %v", got, notes, err)
	}
	p.IOPriority, p.Cwd = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_IDLE}, ""
	if _, _, err := GuestProcess(p); err == nil || !strings.Contains(err.Error(), "process.ioPriority") || !strings.Contains(err.Error(), "process.cwd") {
		t.Errorf("%v", err)
	}
}
