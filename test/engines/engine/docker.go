//go:build e2e

package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/test/harness"
)

// daemon is a dockerd and the containerd that it starts.
type daemon struct {
	socket, pidFile string
	log             *os.File
	cmd             *exec.Cmd // the one that went into the namespaces
	ended           chan struct{}
	options         Options
}

func (e *Engine) startDocker(o Options) {
	e.t.Helper()
	d := &daemon{socket: filepath.Join(e.Dir, "docker.sock"), pidFile: filepath.Join(e.Dir, "docker.pid"), options: o}
	e.daemon = d
	var err error
	if d.log, err = os.Create(filepath.Join(e.Dir, "dockerd.log")); err != nil {
		e.t.Fatal(err)
	}
	runtimes := map[string]any{}
	for name, path := range e.runtimes() {
		runtimes[name] = map[string]string{"path": path}
	}
	driver := "cgroupfs"
	if o.Systemd {
		driver = "systemd"
	}
	settings, err := json.Marshal(map[string]any{
		"exec-opts": []string{"native.cgroupdriver=" + driver},
		"data-root": filepath.Join(e.Dir, "docker"), "exec-root": filepath.Join(e.Dir, "x"), "pidfile": d.pidFile,
		"hosts":    []string{"unix://" + d.socket},
		"runtimes": runtimes, "userland-proxy": false, "live-restore": o.LiveRestore, "shutdown-timeout": 60,
		// Names of the default address pools would meet the machine's own networks in what a person reads.
		"bip": "172.30.0.1/16", "fixed-cidr-v6": "fd00:30::/64", "ipv6": true, "ip6tables": true, "experimental": true,
	})
	if err != nil {
		e.t.Fatal(err)
	}
	e.Etc("docker/daemon.json", string(settings))
	e.t.Cleanup(func() {
		defer func() {
			if e.t.Failed() {
				e.t.Logf("the last lines of dockerd's log:\n%s", e.DaemonLog(60))
			}
			d.log.Close()
		}()
		e.stopDocker()
	})
	e.witness = e.goroutines
	e.StartDaemon()
}

// DaemonLog returns the last lines that dockerd has written.
func (e *Engine) DaemonLog(lines int) string {
	b, _ := os.ReadFile(e.daemon.log.Name())
	all := bytes.Split(b, []byte("\n"))
	return string(bytes.Join(all[max(0, len(all)-lines):], []byte("\n")))
}

// StartDaemon starts dockerd, again where it was killed, and waits until it answers.
func (e *Engine) StartDaemon() {
	e.t.Helper()
	d := e.daemon
	program, path := "/usr/sbin/dockerd", "/usr/sbin:/usr/bin:/sbin:/bin"
	if e.Kind == CurrentDocker {
		dir := programs(e.t)
		program, path = filepath.Join(dir, "dockerd"), dir+":"+path
	}
	d.cmd = e.Host.Command(context.Background(), program, "--config-file", "/etc/docker/daemon.json")
	d.cmd.Stdout, d.cmd.Stderr = d.log, d.log
	// The client of Debian's docker.io is the only one here, and speaks 1.41.
	d.cmd.Env = []string{"PATH=" + path, "HOME=" + e.Dir, "DOCKER_MIN_API_VERSION=1.41", "TMPDIR=" + e.Dir}
	if err := d.cmd.Start(); err != nil {
		e.t.Fatal(err)
	}
	ended := make(chan struct{})
	d.ended = ended
	go func(cmd *exec.Cmd) {
		_ = cmd.Wait()
		close(ended)
	}(d.cmd)
	deadline := time.Now().Add(harness.Patience)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), harness.Soon)
		out, err := e.Command(ctx, "version", "--format", "{{.Server.Version}}").CombinedOutput()
		cancel()
		if err == nil {
			return
		}
		select {
		case <-ended:
			e.t.Fatalf("dockerd has ended: %s", e.DaemonLog(30))
		default:
		}
		if time.Now().After(deadline) {
			e.t.Fatalf("dockerd does not answer: %s\n%s", out, e.DaemonLog(30))
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// goroutines asks dockerd where its goroutines are, which it writes into a file of its exec-root.
func (e *Engine) goroutines() string {
	if children := harness.Children(e.daemon.cmd.Process.Pid); len(children) == 1 {
		_ = unix.Kill(children[0], unix.SIGUSR1)
	}
	var text []byte
	for deadline := time.Now().Add(harness.Soon); len(text) == 0 && time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		files, _ := filepath.Glob(filepath.Join(e.Dir, "x", "goroutine-stacks-*.log"))
		for _, f := range files {
			text, _ = os.ReadFile(f)
		}
	}
	return fmt.Sprintf("dockerd's goroutines:\n%.100000s", text)
}

// DaemonPid is dockerd's process, as the machine sees it.
func (e *Engine) DaemonPid() int {
	e.t.Helper()
	children := harness.Children(e.daemon.cmd.Process.Pid)
	if len(children) != 1 {
		e.t.Fatalf("nsenter has the children %v", children)
	}
	return children[0]
}

// KillDaemon kills dockerd, and nothing else, with SIGKILL.
func (e *Engine) KillDaemon() {
	e.t.Helper()
	harness.Kill(e.t, e.DaemonPid(), syscall.SIGKILL)
	<-e.daemon.ended
}

// stopDocker ends dockerd as an init system does, and reports what it has left.
func (e *Engine) stopDocker() {
	d := e.daemon
	select {
	case <-d.ended:
		return
	default:
	}
	if ids := strings.Fields(e.Run("ps", "-aq").Stdout); len(ids) > 0 {
		e.Run(append([]string{"rm", "-f"}, ids...)...)
	}
	e.CheckLeft()
	if children := harness.Children(d.cmd.Process.Pid); len(children) == 1 {
		_ = unix.Kill(children[0], unix.SIGTERM)
	}
	select {
	case <-d.ended:
	case <-time.After(harness.Patience):
		e.t.Errorf("dockerd does not end: %s", e.DaemonLog(30))
	}
}

// processes are those of the daemon: dockerd and its containerd.
func (d *daemon) processes() []int {
	if d == nil {
		return nil
	}
	all := harness.Children(d.cmd.Process.Pid)
	for _, pid := range slices.Clone(all) {
		all = append(all, harness.Children(pid)...)
	}
	// After dockerd was killed its containerd has another parent.
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		command, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		if args := strings.Split(string(command), "\x00"); len(args) > 2 && filepath.Base(args[0]) == "containerd" &&
			strings.HasPrefix(args[2], filepath.Dir(d.socket)+"/") {
			pid, _ := strconv.Atoi(filepath.Base(dir))
			all = append(all, pid)
		}
	}
	return all
}
