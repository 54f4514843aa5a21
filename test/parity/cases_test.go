//go:build e2e

package parity

import (
	"maps"
	"path/filepath"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/runcvm/runcvm/test/control"
)

// testCase is one set of options, for both sides.
type testCase struct {
	name string
	// flags are RunCVM's, as a user of docker run writes them.
	flags []string
	// args are the probe's.
	args []string
	// docker changes the specification that a dockerd makes without options into the one that it makes with these.
	docker func(*control.Control, *specs.Spec)
	// seccomp is the control's profile: empty for Docker's, "unconfined", or a profile's text.
	seccomp string
	// file is written to a file that fileFlag names.
	file, fileFlag string
}

// spec is a testCase's docker that needs nothing of the control.
func spec(change func(*specs.Spec)) func(*control.Control, *specs.Spec) {
	return func(_ *control.Control, s *specs.Spec) { change(s) }
}

func caps(names ...string) func(*control.Control, *specs.Spec) {
	return spec(func(s *specs.Spec) { setCaps(s, names) })
}

func setCaps(s *specs.Spec, names []string) {
	c := s.Process.Capabilities
	c.Bounding, c.Effective, c.Permitted = names, names, names
}

func addedCaps(names ...string) func(*control.Control, *specs.Spec) {
	return spec(func(s *specs.Spec) { setCaps(s, append(slices.Clone(s.Process.Capabilities.Bounding), names...)) })
}

// privileged is what dockerd does for --privileged, but for the devices.
func privileged(s *specs.Spec) {
	setCaps(s, control.AllCapabilities())
	control.ClearOption(s, "/sys", "ro")
	control.ClearOption(s, "/sys/fs/cgroup", "ro")
	s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = nil, nil
	s.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
}

func user(uid, gid uint32, groups ...uint32) func(*control.Control, *specs.Spec) {
	return spec(func(s *specs.Spec) {
		s.Process.User = specs.User{UID: uid, GID: gid, AdditionalGids: append([]uint32{gid}, groups...)}
	})
}

func rlimits(limits ...specs.POSIXRlimit) func(*control.Control, *specs.Spec) {
	return spec(func(s *specs.Spec) {
		for _, l := range limits {
			s.Process.Rlimits = slices.DeleteFunc(s.Process.Rlimits, func(have specs.POSIXRlimit) bool { return have.Type == l.Type })
			s.Process.Rlimits = append(s.Process.Rlimits, l)
		}
	})
}

func memory(m specs.LinuxMemory) func(*control.Control, *specs.Spec) {
	return spec(func(s *specs.Spec) { s.Linux.Resources.Memory = &m })
}

func cpu(c specs.LinuxCPU) func(*control.Control, *specs.Spec) {
	return spec(func(s *specs.Spec) { s.Linux.Resources.CPU = &c })
}

func sysctl(values map[string]string) func(*control.Control, *specs.Spec) {
	return spec(func(s *specs.Spec) {
		maps.Copy(s.Linux.Sysctl, values)
	})
}

func tmpfs(destination string, options ...string) func(*control.Control, *specs.Spec) {
	return spec(func(s *specs.Spec) {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: destination, Type: "tmpfs", Source: "tmpfs", Options: options})
	})
}

func readOnly(s *specs.Spec) {
	s.Root.Readonly = true
	for i, m := range s.Mounts {
		switch m.Destination {
		case "/proc", "/dev/pts", "/dev/shm", "/dev/mqueue", "/dev", "/sys", "/sys/fs/cgroup", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf":
		default:
			s.Mounts[i].Options = append(s.Mounts[i].Options, "ro")
		}
	}
}

func both(changes ...func(*control.Control, *specs.Spec)) func(*control.Control, *specs.Spec) {
	return func(c *control.Control, s *specs.Spec) {
		for _, change := range changes {
			change(c, s)
		}
	}
}

// noUnshare forbids two system calls, each with another answer.
const noUnshare = `{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64"],"syscalls":[
 {"names":["unshare","keyctl"],"action":"SCMP_ACT_ERRNO","errnoRet":1},{"names":["sethostname"],"action":"SCMP_ACT_ERRNO","errnoRet":13}]}`

var cases = []testCase{
	{name: "default"},
	{name: "args", args: []string{"", "two words", "a\nb", "é", "--flag", "$HOME"}},
	{name: "user", flags: []string{"-u", "1000"}, docker: user(1000, 0)},
	{name: "user-group", flags: []string{"-u", "1000:2000"}, docker: user(1000, 2000)},
	{name: "user-by-name", flags: []string{"-u", "nobody"}, docker: user(65534, 65534)},
	{name: "user-and-group-by-name", flags: []string{"-u", "daemon:audio"}, docker: user(1, 29)},
	{name: "group-add", flags: []string{"--group-add", "audio", "--group-add", "4242"}, docker: user(0, 0, 29, 4242)},
	{name: "user-group-add", flags: []string{"-u", "www-data", "--group-add", "video"}, docker: user(33, 33, 44)},
	{name: "workdir", flags: []string{"-w", "/usr/lib"}, docker: spec(func(s *specs.Spec) { s.Process.Cwd = "/usr/lib" })},
	{name: "workdir-new", flags: []string{"-w", "/new/dir"}, docker: spec(func(s *specs.Spec) { s.Process.Cwd = "/new/dir" })},
	{name: "env", flags: []string{"-e", "A=1", "-e", "PATH=/bin", "-e", "E=", "-e", "S=a b\"c"}, docker: spec(func(s *specs.Spec) {
		s.Process.Env = []string{"PATH=/bin", "HOSTNAME=" + control.Hostname, "A=1", "E=", "S=a b\"c"}
	})},
	{name: "hostname-domainname", flags: []string{"--hostname", "other.name", "--domainname", "example.org"}, docker: spec(func(s *specs.Spec) {
		s.Hostname, s.Linux.Sysctl["kernel.domainname"] = "other.name", "example.org"
		s.Process.Env[1] = "HOSTNAME=other.name"
	})},
	{name: "read-only", flags: []string{"--read-only"}, docker: spec(readOnly)},
	{name: "tmpfs", flags: []string{"--tmpfs", "/t"}, docker: tmpfs("/t", "noexec", "nosuid", "nodev", "rprivate")},
	{name: "tmpfs-options", flags: []string{"--tmpfs", "/t:size=1m,mode=750,uid=7,exec"},
		docker: tmpfs("/t", "nosuid", "nodev", "rprivate", "size=1m", "mode=750", "uid=7", "exec")},
	{name: "tmpfs-read-only", flags: []string{"--read-only", "--tmpfs", "/tmp:ro"},
		docker: both(spec(readOnly), tmpfs("/tmp", "noexec", "nosuid", "nodev", "rprivate", "ro"))},
	{name: "cap-drop-all", flags: []string{"--cap-drop", "ALL"}, docker: caps()},
	{name: "cap-drop-all-add", flags: []string{"--cap-drop", "all", "--cap-add", "chown", "--cap-add", "CAP_NET_RAW"},
		docker: caps("CAP_CHOWN", "CAP_NET_RAW")},
	{name: "cap-drop", flags: []string{"--cap-drop", "CHOWN", "--cap-drop", "net_raw"}, docker: spec(func(s *specs.Spec) {
		setCaps(s, slices.DeleteFunc(slices.Clone(s.Process.Capabilities.Bounding), func(c string) bool { return c == "CAP_CHOWN" || c == "CAP_NET_RAW" }))
	})},
	{name: "cap-add-sys-admin", flags: []string{"--cap-add", "SYS_ADMIN"}, docker: addedCaps("CAP_SYS_ADMIN")},
	{name: "cap-add-several", flags: []string{"--cap-add", "NET_ADMIN", "--cap-add", "SYS_PTRACE", "--cap-add", "SYS_TIME", "--cap-add", "BPF",
		"--cap-add", "PERFMON", "--cap-add", "SYSLOG", "--cap-add", "SYS_BOOT"},
		docker: addedCaps("CAP_NET_ADMIN", "CAP_SYS_PTRACE", "CAP_SYS_TIME", "CAP_BPF", "CAP_PERFMON", "CAP_SYSLOG", "CAP_SYS_BOOT")},
	{name: "cap-add-all", flags: []string{"--cap-add", "ALL"}, docker: caps(control.AllCapabilities()...)},
	{name: "cap-add-all-but", flags: []string{"--cap-add", "ALL", "--cap-drop", "SYS_ADMIN"},
		docker: caps(slices.DeleteFunc(control.AllCapabilities(), func(c string) bool { return c == "CAP_SYS_ADMIN" })...)},
	{name: "cap-add-user", flags: []string{"-u", "1000:1000", "--cap-add", "SYS_ADMIN"}, docker: both(user(1000, 1000), addedCaps("CAP_SYS_ADMIN"))},
	{name: "seccomp-unconfined", flags: []string{"--security-opt", "seccomp=unconfined"}, seccomp: "unconfined"},
	{name: "seccomp-file", file: noUnshare, fileFlag: "--security-opt=seccomp=", seccomp: noUnshare},
	{name: "seccomp-builtin", flags: []string{"--security-opt", "seccomp=builtin"}},
	{name: "no-new-privileges", flags: []string{"--security-opt", "no-new-privileges"},
		docker: spec(func(s *specs.Spec) { s.Process.NoNewPrivileges = true })},
	{name: "no-new-privileges-user", flags: []string{"-u", "12:13", "--security-opt", "no-new-privileges:true"},
		docker: both(user(12, 13), spec(func(s *specs.Spec) { s.Process.NoNewPrivileges = true }))},
	{name: "systempaths-unconfined", flags: []string{"--security-opt", "systempaths=unconfined"},
		docker: spec(func(s *specs.Spec) { s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = nil, nil })},
	{name: "labels-off", flags: []string{"--security-opt", "apparmor=unconfined", "--security-opt", "label=disable", "--userns", "host",
		"--network", "none", "--label", "a=b", "--annotation", "c=d", "--no-healthcheck"}},
	{name: "writable-cgroups", flags: []string{"--security-opt", "writable-cgroups=true"},
		docker: spec(func(s *specs.Spec) { control.ClearOption(s, "/sys/fs/cgroup", "ro") })},
	{name: "privileged", flags: []string{"--privileged"}, docker: spec(privileged), seccomp: "unconfined"},
	{name: "privileged-user", flags: []string{"--privileged", "-u", "1000:1000"}, docker: both(spec(privileged), user(1000, 1000)), seccomp: "unconfined"},
	{name: "privileged-read-only", flags: []string{"--privileged", "--read-only"},
		docker: both(spec(readOnly), spec(privileged)), seccomp: "unconfined"},
	{name: "ulimits", flags: []string{"--ulimit", "nofile=512:1024", "--ulimit", "core=0", "--ulimit", "cpu=100:200", "--ulimit", "nproc=500"},
		docker: rlimits(specs.POSIXRlimit{Type: "RLIMIT_NOFILE", Soft: 512, Hard: 1024}, specs.POSIXRlimit{Type: "RLIMIT_CORE"},
			specs.POSIXRlimit{Type: "RLIMIT_CPU", Soft: 100, Hard: 200}, specs.POSIXRlimit{Type: "RLIMIT_NPROC", Soft: 500, Hard: 500})},
	{name: "ulimits-memory", flags: []string{"--ulimit", "memlock=65536", "--ulimit", "stack=1048576:4194304", "--ulimit", "fsize=1000000",
		"--ulimit", "msgqueue=1000", "--ulimit", "sigpending=100"},
		docker: rlimits(specs.POSIXRlimit{Type: "RLIMIT_MEMLOCK", Soft: 65536, Hard: 65536},
			specs.POSIXRlimit{Type: "RLIMIT_STACK", Soft: 1 << 20, Hard: 4 << 20}, specs.POSIXRlimit{Type: "RLIMIT_FSIZE", Soft: 1e6, Hard: 1e6},
			specs.POSIXRlimit{Type: "RLIMIT_MSGQUEUE", Soft: 1000, Hard: 1000}, specs.POSIXRlimit{Type: "RLIMIT_SIGPENDING", Soft: 100, Hard: 100})},
	{name: "shm-size", flags: []string{"--shm-size", "16m"}, docker: spec(func(s *specs.Spec) {
		control.ClearOption(s, "/dev/shm", "size=67108864")
		control.SetOption(s, "/dev/shm", "size=16777216")
	})},
	{name: "ipc-none", flags: []string{"--ipc", "none"}, docker: spec(func(s *specs.Spec) {
		s.Mounts = slices.DeleteFunc(s.Mounts, func(m specs.Mount) bool { return m.Destination == "/dev/shm" })
	})},
	{name: "sysctl", flags: []string{"--sysctl", "kernel.msgmax=1234", "--sysctl", "kernel.shm_rmid_forced=1", "--sysctl", "fs.mqueue.msg_max=7",
		"--sysctl", "net.ipv4.ip_forward=1", "--sysctl", "net/core/somaxconn=77", "--sysctl", "net.ipv4.tcp_keepalive_time=60"},
		docker: sysctl(map[string]string{"kernel.msgmax": "1234", "kernel.shm_rmid_forced": "1", "fs.mqueue.msg_max": "7",
			"net.ipv4.ip_forward": "1", "net.core.somaxconn": "77", "net.ipv4.tcp_keepalive_time": "60"})},
	{name: "sysctl-over-default", flags: []string{"-u", "1000", "--sysctl", "net.ipv4.ip_unprivileged_port_start=1024", "--sysctl", "net.ipv4.ping_group_range=1 0"},
		docker: both(user(1000, 0), sysctl(map[string]string{"net.ipv4.ip_unprivileged_port_start": "1024", "net.ipv4.ping_group_range": "1 0"}))},
	{name: "memory", flags: []string{"-m", "64m"}, docker: memory(specs.LinuxMemory{Limit: new(int64(64 << 20)), Swap: new(int64(128 << 20))})},
	{name: "memory-swap", flags: []string{"-m", "64m", "--memory-swap", "64m"},
		docker: memory(specs.LinuxMemory{Limit: new(int64(64 << 20)), Swap: new(int64(64 << 20))})},
	{name: "memory-swap-unlimited", flags: []string{"-m", "64m", "--memory-swap", "-1"}, docker: memory(specs.LinuxMemory{Limit: new(int64(64 << 20))})},
	{name: "memory-reservation", flags: []string{"-m", "64m", "--memory-reservation", "32m"}, docker: memory(specs.LinuxMemory{
		Limit: new(int64(64 << 20)), Swap: new(int64(128 << 20)), Reservation: new(int64(32 << 20))})},
	{name: "cpus", flags: []string{"--cpus", "0.5"}, docker: cpu(specs.LinuxCPU{Period: new(uint64(100000)), Quota: new(int64(50000))})},
	{name: "cpu-quota", flags: []string{"--cpu-period", "50000", "--cpu-quota", "20000"},
		docker: cpu(specs.LinuxCPU{Period: new(uint64(50000)), Quota: new(int64(20000))})},
	{name: "cpu-shares", flags: []string{"-c", "512"}, docker: cpu(specs.LinuxCPU{Shares: new(uint64(512))})},
	{name: "pids-limit", flags: []string{"--pids-limit", "50"}, docker: spec(func(s *specs.Spec) {
		s.Linux.Resources.Pids = &specs.LinuxPids{Limit: new(int64(50))}
	})},
	{name: "pids-unlimited", flags: []string{"--pids-limit", "-1"}, docker: spec(func(s *specs.Spec) {
		s.Linux.Resources.Pids = &specs.LinuxPids{Limit: new(int64(-1))}
	})},
	{name: "oom-score-adj", flags: []string{"--oom-score-adj", "500"}, docker: spec(func(s *specs.Spec) { s.Process.OOMScoreAdj = new(500) })},
	{name: "init", flags: []string{"--init"}, docker: func(c *control.Control, s *specs.Spec) {
		s.Process.Args = append([]string{"/sbin/docker-init", "--"}, s.Process.Args...)
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/sbin/docker-init", Type: "bind", Source: filepath.Join(c.Dir, "docker-init"),
			Options: []string{"bind", "ro"}})
	}},
	{name: "device-cgroup-rule", flags: []string{"--device-cgroup-rule", "c 10:229 rwm"}, docker: spec(func(s *specs.Spec) {
		s.Linux.Resources.Devices = append(s.Linux.Resources.Devices,
			specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: new(int64(10)), Minor: new(int64(229)), Access: "rwm"})
	})},
	{name: "all-at-once", flags: []string{"-u", "1000:1000", "--read-only", "--cap-drop", "ALL", "--cap-add", "NET_BIND_SERVICE", "--security-opt",
		"no-new-privileges", "-m", "128m", "--memory-swap", "128m", "--cpus", "0.5", "--pids-limit", "100", "--ulimit", "nofile=100", "--shm-size", "1m",
		"--tmpfs", "/run", "-w", "/tmp", "-e", "X=y", "--group-add", "7"},
		docker: both(user(1000, 1000, 7), spec(readOnly), caps("CAP_NET_BIND_SERVICE"),
			memory(specs.LinuxMemory{Limit: new(int64(128 << 20)), Swap: new(int64(128 << 20))}),
			cpu(specs.LinuxCPU{Period: new(uint64(100000)), Quota: new(int64(50000))}),
			rlimits(specs.POSIXRlimit{Type: "RLIMIT_NOFILE", Soft: 100, Hard: 100}), tmpfs("/run", "noexec", "nosuid", "nodev", "rprivate"),
			spec(func(s *specs.Spec) {
				s.Process.NoNewPrivileges, s.Process.Cwd = true, "/tmp"
				s.Process.Env = append(s.Process.Env, "X=y")
				s.Linux.Resources.Pids = &specs.LinuxPids{Limit: new(int64(100))}
				control.ClearOption(s, "/dev/shm", "size=67108864")
				control.SetOption(s, "/dev/shm", "size=1048576")
			}))},
}
