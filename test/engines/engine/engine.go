//go:build e2e

package engine

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/cgroups"

	"github.com/runcvm/runcvm/test/harness"
)

// Kind is one of the engines.
type Kind string

// The engines.
const (
	DebianDocker  Kind = "docker-20.10"
	CurrentDocker Kind = "docker"
	Podman        Kind = "podman"
)

// Kinds are all engines.
var Kinds = []Kind{DebianDocker, CurrentDocker, Podman}

// The runtimes, by the names under which each engine knows them. Runc is the control.
const (
	Runc   = "control"
	RunCVM = "runcvm"
)

// Engine is one that runs.
type Engine struct {
	*Host
	Kind    Kind
	daemon  *daemon // nil for Podman
	systemd bool
}

// Options are further settings of an engine.
type Options struct {
	// LiveRestore lets containers outlive Docker's daemon.
	LiveRestore bool
	// Systemd gives the host systemd as its first process, and the engine systemd's cgroup driver. Else cgroups are made by files.
	Systemd bool
}

// New starts an engine.
func New(t testing.TB, kind Kind, o Options) *Engine {
	t.Helper()
	init := noInit
	if o.Systemd {
		init = systemd
	}
	e := &Engine{Host: newHost(t, init), Kind: kind, systemd: o.Systemd}
	e.ServeOutside()
	e.ConfigureRunCVM("")
	if kind == Podman {
		e.configurePodman(o)
	} else {
		e.startDocker(o)
	}
	return e
}

// For returns the same engine for a subtest, whose failures are then its own.
func (e *Engine) For(t testing.TB) *Engine {
	host := *e.Host
	host.t = t
	return &Engine{Host: &host, Kind: e.Kind, daemon: e.daemon, systemd: e.systemd}
}

// programs is the directory of the engines that are built for the tests.
func programs(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(harness.Bin(t), "test", "engines")
	if _, err := os.Stat(filepath.Join(dir, "runc")); err != nil {
		t.Fatalf("%v: run the e2e suites by make test-e2e", err)
	}
	return dir
}

func (e *Engine) runtimes() map[string]string {
	return map[string]string{Runc: filepath.Join(programs(e.t), "runc"), RunCVM: filepath.Join(harness.Bin(e.t), "runcvm")}
}

// ImageDisks lists RunCVM's image disks: a line each with inode, time of the last change, and name.
func (e *Engine) ImageDisks() string {
	e.t.Helper()
	out, err := e.Host.Run("find", filepath.Join(e.RunCVMDir(), "data", "disks"), "-name", "*.erofs", "-printf", "%i %T@ %f\n")
	if err != nil {
		e.t.Fatal(err)
	}
	return out
}

// ContainerPid is a container's process, as the machine sees it.
func (e *Engine) ContainerPid(name string) int {
	e.t.Helper()
	inside := e.MustRun("inspect", "-f", "{{.State.Pid}}", name)
	for pid := range e.Processes() {
		status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		for line := range strings.Lines(string(status)) {
			// One column for each pid namespace from the machine's to the innermost.
			if f := strings.Fields(line); len(f) > 2 && f[0] == "NSpid:" && f[2] == inside {
				return pid
			}
		}
	}
	e.t.Fatalf("no process of the host has the pid %s there, which %s of %s has", inside, name, e.Kind)
	return 0
}

// Command prepares a command of the engine.
func (e *Engine) Command(ctx context.Context, args ...string) *exec.Cmd {
	if e.Kind == Podman {
		return e.Host.Command(ctx, "podman", args...)
	}
	cmd := exec.CommandContext(ctx, "/usr/bin/docker", append([]string{"-H", "unix://" + e.daemon.socket}, args...)...)
	cmd.Env = append(os.Environ(), "DOCKER_CONFIG="+filepath.Join(e.Dir, "cli"))
	return cmd
}

// Shell is how a shell on the host calls the engine's command.
func (e *Engine) Shell() string {
	if e.Kind == Podman {
		return "podman"
	}
	return "/usr/bin/docker -H unix://" + e.daemon.socket
}

// Run runs a command of the engine and returns how it ended.
func (e *Engine) Run(args ...string) Result {
	e.t.Helper()
	return e.RunInput(nil, args...)
}

// RunInput is Run with a standard input.
func (e *Engine) RunInput(stdin io.Reader, args ...string) Result {
	e.t.Helper()
	return e.run(stdin, func(ctx context.Context) *exec.Cmd { return e.Command(ctx, args...) })
}

// MustRun is Run that fails the test unless the command succeeds. It returns the trimmed standard output.
func (e *Engine) MustRun(args ...string) string {
	e.t.Helper()
	r := e.Run(args...)
	if r.Code != 0 {
		e.t.Fatalf("%s %s: exit code %d\nstdout: %.2000s\nstderr: %.8000s", e.Kind, strings.Join(args, " "), r.Code, r.Stdout, r.Stderr)
	}
	return strings.TrimSpace(r.Stdout)
}

// WithRuntime are the arguments of a command with the runtime named where this engine wants it.
func (e *Engine) WithRuntime(runtime string, args ...string) []string {
	switch {
	case e.Kind == Podman:
		return append([]string{"--runtime", runtime}, args...)
	case args[0] == "run" || args[0] == "create":
		return slices.Insert(slices.Clone(args), 1, "--runtime", runtime)
	}
	return args
}

// Load brings an image of a docker-archive to the engine.
func (e *Engine) Load(archive string) {
	e.t.Helper()
	e.MustRun("load", "-q", "-i", archive)
}

// CheckLeft fails the test if a process, link, mount or cgroup of the engine's containers is there after their end.
func (e *Engine) CheckLeft() {
	e.t.Helper()
	e.CheckLeftBut()
}

// CheckLeftBut is CheckLeft while containers with these names are there and do not run.
func (e *Engine) CheckLeftBut(names ...string) {
	e.t.Helper()
	var ids []string
	for _, name := range names {
		ids = append(ids, e.MustRun("inspect", "-f", "{{.Id}}", name))
	}
	harness.Eventually(e.t, harness.Soon, func() error {
		left := slices.DeleteFunc(e.left(), func(what string) bool {
			return slices.ContainsFunc(ids, func(id string) bool { return what == runCVMContainer+id })
		})
		// What such a container has written is kept.
		kept := len(ids)
		left = slices.DeleteFunc(left, func(what string) bool {
			if strings.HasPrefix(what, writableDisk) {
				kept--
			}
			return strings.HasPrefix(what, writableDisk) && kept >= 0
		})
		if len(left) > 0 {
			return fmt.Errorf("left on the host of %s:\n%s", e.Kind, strings.Join(left, "\n"))
		}
		return nil
	})
}

// These begin the lines of left that tell of a container, and of the disk that one has written to.
const (
	runCVMContainer = "container of RunCVM "
	writableDisk    = "disk "
)

// left lists what is there beside the engine: processes, network interfaces, mounts of containers, cgroups, containers of RunCVM's and
// what they have in its directories and in the engine's.
func (e *Engine) left() []string {
	var left []string
	engine := e.daemon.processes()
	for pid, command := range e.Processes() {
		if !slices.Contains(engine, pid) {
			left = append(left, fmt.Sprintf("process %d %s", pid, command))
		}
	}
	_ = e.InNetwork("", func() error {
		b, err := os.ReadFile("/proc/thread-self/net/dev")
		for line := range strings.Lines(string(b)) {
			name, _, ok := strings.Cut(strings.TrimSpace(line), ":")
			if ok && (strings.HasPrefix(name, "veth") || strings.HasPrefix(name, "b9fc")) {
				left = append(left, "interface "+name)
			}
		}
		return err
	})
	mounts, _ := os.ReadFile(fmt.Sprintf("/proc/%d/mounts", e.Pid))
	for line := range strings.Lines(string(mounts)) {
		f := strings.Fields(line)
		for _, sign := range []string{"/merged", "/rootfs", "/shm", e.RunCVMDir() + "/"} {
			if len(f) > 1 && strings.HasPrefix(f[1], e.Dir) && strings.Contains(f[1], sign) {
				left = append(left, "mount "+f[1])
				break
			}
		}
	}
	monitorsStay := e.Kind == Podman && e.systemd && !cgroups.IsCgroup2UnifiedMode()
	for _, path := range e.Cgroups() {
		// Engines keep the parents of their containers' cgroups, and Podman that of its monitors; with systemd and cgroup v1 it leaves
		// the monitors' own in hierarchies that systemd does not know.
		name := filepath.Base(path)
		if !slices.Contains([]string{"docker", "libpod_parent", "conmon", "system.slice", "machine.slice"}, name) &&
			(!monitorsStay || !strings.HasPrefix(name, "libpod-conmon-")) {
			left = append(left, "cgroup "+path)
		}
	}
	containers, _ := os.ReadDir(filepath.Join(e.RunCVMDir(), "data", "containers"))
	for _, c := range containers {
		left = append(left, runCVMContainer+c.Name())
	}
	running, _ := os.ReadDir(filepath.Join(e.RunCVMDir(), "run"))
	for _, r := range running {
		left = append(left, "running container of RunCVM "+r.Name())
	}
	_ = filepath.WalkDir(e.Dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Name() == "runcvm.ext4" {
			left = append(left, writableDisk+path)
		}
		return nil
	})
	return left
}
