//go:build e2e

// Package control runs containers under runc as a dockerd would ask it to, for tests that hold RunCVM against it.
//
// New comes first; Run may be called at once by several. What this machine's own rights do not allow is taken out of what runc is
// asked for.
package control

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/test/harness"
)

// dockerDefault is what oci.DefaultSpec of github.com/docker/docker v28.5.2 returns, which a dockerd of that version begins with.
//
//go:embed testdata/docker-default.json
var dockerDefault []byte

// Hostname is that of every container.
const Hostname = "control"

// Control runs containers under runc.
type Control struct {
	// Dir is where everything of it lies; Docker's init program is Dir/docker-init.
	Dir string
	// Rootfs is the image's files. What a test adds, containers that are run later have.
	Rootfs string
	// Capabilities are this machine's own, by their numbers: runc cannot give more.
	Capabilities uint64
}

// New unpacks the image that is the OCI layout at the path image.
func New(t *testing.T, image string) *Control {
	t.Helper()
	if _, err := exec.LookPath("runc"); err != nil {
		t.Fatalf("runc is what RunCVM is compared with; run make setup: %v", err)
	}
	c := &Control{Dir: t.TempDir(), Capabilities: boundingSet(t)}
	c.Rootfs = filepath.Join(c.Dir, "rootfs")
	// In memory, so that an overlay's upper directory can lie beside it on any machine.
	mount(t, "tmpfs", c.Dir, "tmpfs", "mode=0755")
	if err := os.Mkdir(c.Rootfs, 0o755); err != nil {
		t.Fatal(err)
	}
	harness.Unpack(t, image, c.Rootfs)
	copyFile(t, "/usr/bin/tini-static", filepath.Join(c.Dir, "docker-init")) // the program that Docker takes
	for _, name := range []string{"hosts", "hostname", "resolv.conf"} {
		if err := os.WriteFile(filepath.Join(c.Dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func mount(t *testing.T, source, target, fstype, options string) {
	t.Helper()
	if err := unix.Mount(source, target, fstype, 0, options); err != nil {
		t.Fatalf("mount %s on %s: %v", fstype, target, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(target, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", target, err)
		}
	})
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
}

// boundingSet is this process's.
func boundingSet(t *testing.T) uint64 {
	t.Helper()
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(b), "CapBnd:")
	line, _, _ := strings.Cut(after, "\n")
	n, err := strconv.ParseUint(strings.TrimSpace(line), 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// spec is what dockerd makes of a docker run without options, in the order of its createSpec.
func (c *Control) spec(t *testing.T, rootfs string, args []string) *specs.Spec {
	t.Helper()
	s := new(specs.Spec)
	if err := json.Unmarshal(dockerDefault, s); err != nil {
		t.Fatal(err)
	}
	s.Version = "1.0.2" // Debian's runc knows no later one
	s.Root = &specs.Root{Path: rootfs}
	s.Hostname = Hostname
	s.Process.Args, s.Process.Cwd = args, "/"
	s.Process.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOSTNAME=" + Hostname}
	s.Process.User.AdditionalGids = []uint32{0}
	score := 0
	s.Process.OOMScoreAdj = &score
	// What dockerd passes on of its own, under systemd and its unit's LimitCORE and LimitNPROC.
	s.Process.Rlimits = []specs.POSIXRlimit{
		{Type: "RLIMIT_CORE", Soft: unix.RLIM_INFINITY, Hard: unix.RLIM_INFINITY},
		{Type: "RLIMIT_NOFILE", Soft: 1024, Hard: 524288},
		{Type: "RLIMIT_NPROC", Soft: unix.RLIM_INFINITY, Hard: unix.RLIM_INFINITY},
	}
	s.Linux.Sysctl = map[string]string{"net.ipv4.ping_group_range": "0 2147483647", "net.ipv4.ip_unprivileged_port_start": "0"}
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	for _, file := range []string{"resolv.conf", "hostname", "hosts"} {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/etc/" + file, Type: "bind", Source: filepath.Join(c.Dir, file),
			Options: []string{"rbind", "rprivate"}})
	}
	SetOption(s, "/dev/shm", "size=67108864")
	return s
}

// finish is what follows from the rest: the system call filter from the capabilities, and what this machine cannot give.
func (c *Control) finish(t *testing.T, s *specs.Spec, filter string) {
	t.Helper()
	var err error
	switch filter {
	case "":
		s.Linux.Seccomp, err = seccomp.GetDefaultProfile(s)
	case "unconfined":
	default:
		s.Linux.Seccomp, err = seccomp.LoadProfile(filter, s)
	}
	if err != nil {
		t.Fatal(err)
	}
	sets := s.Process.Capabilities
	for _, set := range []*[]string{&sets.Bounding, &sets.Effective, &sets.Permitted} {
		*set = slices.DeleteFunc(slices.Clone(*set), func(name string) bool { return c.Capabilities>>CapabilityNumber(t, name)&1 == 0 })
	}
	if c.Capabilities>>unix.CAP_SYS_RESOURCE&1 == 0 {
		for i := range s.Process.Rlimits {
			clamp(t, &s.Process.Rlimits[i])
		}
	}
}

// clamp takes a limit down to what this machine has.
func clamp(t *testing.T, r *specs.POSIXRlimit) {
	t.Helper()
	most := HardLimit(t, strings.ToLower(strings.TrimPrefix(r.Type, "RLIMIT_")))
	r.Soft, r.Hard = min(r.Soft, most), min(r.Hard, most)
}

// Run runs a container and returns what its process wrote to standard output and error. change is what the container's options make
// of the specification of one without any, nil is nothing. filter is the system call filter: empty for Docker's, "unconfined", or a
// profile's text.
func (c *Control) Run(t *testing.T, args []string, filter string, change func(*specs.Spec)) []byte {
	t.Helper()
	bundle, err := os.MkdirTemp(c.Dir, "bundle-")
	if err != nil {
		t.Fatal(err)
	}
	id := "runcvm-control-" + filepath.Base(bundle) + "-" + strconv.Itoa(os.Getpid())
	rootfs := filepath.Join(bundle, "merged")
	for _, dir := range []string{"upper", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(bundle, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	mount(t, "overlay", rootfs, "overlay", fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", c.Rootfs,
		filepath.Join(bundle, "upper"), filepath.Join(bundle, "work")))
	s := c.spec(t, rootfs, args)
	s.Linux.CgroupsPath = "/" + id
	if change != nil {
		change(s)
	}
	c.finish(t, s, filter)
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	return c.runc(t, bundle, id)
}

// runc runs a bundle as containerd's shim does: detached, with the standard files handed down as they are.
func (c *Control) runc(t *testing.T, bundle, id string) []byte {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	output := make(chan []byte, 1)
	go func() {
		b, _ := io.ReadAll(r) // what is missing is found by its reader
		output <- b
	}()
	state := filepath.Join(c.Dir, "state")
	log := filepath.Join(bundle, "runc.log")
	cmd := exec.CommandContext(t.Context(), "runc", "--root", state, "--log", log, "run", "--detach", "--bundle", bundle, id)
	cmd.Stdout, cmd.Stderr = w, w
	err = cmd.Run()
	w.Close()
	defer func() {
		if out, err := exec.Command("runc", "--root", state, "delete", "--force", id).CombinedOutput(); err != nil {
			t.Errorf("runc delete: %v: %s", err, out)
		}
	}()
	if err != nil {
		b, _ := os.ReadFile(log)
		t.Fatalf("runc: %v: %s", err, b)
	}
	return <-output // it ends with the container
}

// SetOption adds mount options.
func SetOption(s *specs.Spec, destination string, options ...string) {
	for i := range s.Mounts {
		if s.Mounts[i].Destination == destination {
			s.Mounts[i].Options = append(s.Mounts[i].Options, options...)
		}
	}
}

// ClearOption takes a mount option away.
func ClearOption(s *specs.Spec, destination, option string) {
	for i := range s.Mounts {
		if s.Mounts[i].Destination == destination {
			s.Mounts[i].Options = slices.DeleteFunc(s.Mounts[i].Options, func(o string) bool { return o == option })
		}
	}
}
