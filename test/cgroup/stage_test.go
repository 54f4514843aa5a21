//go:build e2e

// Package cgroup shows that a process and what it starts are in the host's cgroup that a bundle names, with the limits of a microVM,
// that the engines' ways to hear of a lack of memory are heard, and that nothing is left. It needs cgroup v1 or v2, and for the scopes
// systemd where that is the machine's init.
package cgroup

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/cgroups"

	"github.com/runcvm/runcvm/internal/hostcgroup"
)

// member is the argument with which this program stands for a monitor: it reads commands and answers each with a line.
const member = "cgroup-member"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case member:
			beMember()
			return
		case hostcgroup.StandIn:
			if err := hostcgroup.RunStandIn(); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			return
		}
	}
	os.Exit(m.Run())
}

func beMember() {
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		command, rest, _ := strings.Cut(in.Text(), " ")
		var answer string
		var err error
		switch command {
		case "child":
			child := exec.Command("sleep", "1000")
			if err = child.Start(); err == nil {
				answer = fmt.Sprint(child.Process.Pid)
			}
		case "oom":
			err = reportOOM(rest)
		}
		if err != nil {
			answer = "error: " + err.Error()
		}
		fmt.Println(answer)
	}
}

func reportOOM(state string) error {
	var s hostcgroup.State
	if err := json.Unmarshal([]byte(state), &s); err != nil {
		return err
	}
	c, err := hostcgroup.Load(s)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return c.ReportOOM(ctx, self, hostcgroup.StandIn)
}

// process is a program that stands for a monitor.
type process struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func startProcess(t *testing.T) *process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, cmd: exec.Command(self, member)}
	p.cmd.Stderr = os.Stderr
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.out = bufio.NewReader(out)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.end)
	return p
}

func (p *process) ask(command string) string {
	p.t.Helper()
	if _, err := fmt.Fprintln(p.in, command); err != nil {
		p.t.Fatal(err)
	}
	answer, err := p.out.ReadString('\n')
	if err != nil {
		p.t.Fatal(err)
	}
	if answer = strings.TrimSpace(answer); strings.HasPrefix(answer, "error: ") {
		p.t.Fatalf("%s: %s", command, answer)
	}
	return answer
}

// end kills it; a second time it does nothing.
func (p *process) end() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

// enter makes a cgroup with a process in it, and removes both at the end.
func enter(t *testing.T, o hostcgroup.Options) (*hostcgroup.Cgroup, *process) {
	t.Helper()
	c, err := hostcgroup.New(o)
	if err != nil {
		t.Fatal(err)
	}
	p := startProcess(t)
	t.Cleanup(func() {
		for _, pid := range processes(t, c) {
			kill(t, pid)
		}
		p.end()
		remove(t, c)
		gone(t, c)
	})
	if err := c.Enter(p.cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	return c, p
}

func processes(t *testing.T, c *hostcgroup.Cgroup) []int {
	t.Helper()
	pids, err := c.Processes()
	if err != nil {
		t.Fatal(err)
	}
	return pids
}

func kill(t *testing.T, pid int) {
	t.Helper()
	p, err := os.FindProcess(pid)
	if err == nil {
		err = p.Kill()
	}
	if err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Error(err)
	}
}

// patience is how long a removal may take.
const patience = time.Minute

func remove(t *testing.T, c *hostcgroup.Cgroup) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := c.Delete(ctx); err != nil {
		t.Error(err)
	}
}

// gone looks for directories of a cgroup that was removed, and removes the parents that these tests have in common when empty.
func gone(t *testing.T, c *hostcgroup.Cgroup) {
	t.Helper()
	for controller, dir := range c.State().Paths {
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%q: %s is left", controller, dir)
		}
	}
	dirs := []string{"/sys/fs/cgroup" + parent}
	if !cgroups.IsCgroup2UnifiedMode() {
		dirs, _ = filepath.Glob("/sys/fs/cgroup/*" + parent)
	}
	for _, dir := range dirs {
		if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
	}
}

// value is what a file of the cgroup says, by its controller and name of v1 and by its name of v2; "" of v1 is no such file.
func value(t *testing.T, c *hostcgroup.Cgroup, controller, v1, v2 string) string {
	t.Helper()
	file := filepath.Join(directory(c, controller), v1)
	if cgroups.IsCgroup2UnifiedMode() {
		file = filepath.Join(directory(c, controller), v2)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

func directory(c *hostcgroup.Cgroup, controller string) string {
	if cgroups.IsCgroup2UnifiedMode() {
		controller = ""
	}
	return c.State().Paths[controller]
}
