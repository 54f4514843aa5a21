package runtimetools

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// container is one that a test has made.
type container struct {
	t           *testing.T
	rt, id, dir string
}

// bundle makes a bundle of what the runtime's spec gives, with runtime-tools' root, and what edit changes.
func bundle(t *testing.T, rt, id string, edit func(*specs.Spec)) *container {
	t.Helper()
	c := &container{t, rt, id, t.TempDir()}
	ask(t, rt, c.dir, "spec")
	config := filepath.Join(c.dir, "config.json")
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	var spec specs.Spec
	if err := json.Unmarshal(text, &spec); err != nil {
		t.Fatal(err)
	}
	spec.Process.Terminal, spec.Root.Readonly = false, false
	edit(&spec)
	if text, err = json.Marshal(spec); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(config, text, 0o600); err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(c.dir, spec.Root.Path)
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("tar", "-xf", filepath.Join(module(t), "rootfs-amd64.tar.gz"), "-C", root).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return c
}

// create makes a container of such a bundle. Its output goes to a file.
func create(t *testing.T, rt, id string, edit func(*specs.Spec)) *container {
	t.Helper()
	c := bundle(t, rt, id, edit)
	if err := c.try("create", "--bundle", c.dir, id); err != nil {
		t.Fatalf("create: %v\n%s", err, c.output())
	}
	c.deleteAtEnd()
	return c
}

// deleteAtEnd removes the container, if it is there, when the test has ended.
func (c *container) deleteAtEnd() {
	c.t.Cleanup(func() { ask(c.t, c.rt, c.dir, "delete", "--force", c.id) })
}

// try runs the runtime with the container's output as its own.
func (c *container) try(args ...string) error {
	c.t.Helper()
	output, err := os.Create(filepath.Join(c.dir, "output"))
	if err != nil {
		c.t.Fatal(err)
	}
	defer output.Close()
	cmd := exec.Command(c.rt, args...)
	cmd.Stdout, cmd.Stderr = output, output
	return cmd.Run()
}

// output is what the container has written so far.
func (c *container) output() string {
	text, err := os.ReadFile(filepath.Join(c.dir, "output"))
	if err != nil {
		c.t.Error(err)
	}
	return string(text)
}

// do runs a verb of the runtime's on the container.
func (c *container) do(verb string, args ...string) {
	c.t.Helper()
	ask(c.t, c.rt, c.dir, append([]string{verb, c.id}, args...)...)
}

// refuses runs a verb that is to fail, and change nothing of the container's state.
func (c *container) refuses(verb string, args ...string) {
	c.t.Helper()
	before := c.state()
	cmd := exec.Command(c.rt, append([]string{verb, c.id}, args...)...)
	if out, err := cmd.CombinedOutput(); err == nil {
		c.t.Errorf("%s of a container that is %s succeeded\n%s", verb, before.Status, out)
	}
	if after := c.state(); after.Status != before.Status || after.Pid != before.Pid {
		c.t.Errorf("%s of a container that is %s made it %s", verb, before.Status, after.Status)
	}
}

// exists says whether the runtime knows the container.
func (c *container) exists() bool {
	c.t.Helper()
	out, err := exec.Command(c.rt, "state", c.id).CombinedOutput()
	if err != nil && !strings.Contains(string(out), "does not exist") {
		c.t.Errorf("state: %s", out)
	}
	return err == nil
}

func (c *container) state() specs.State {
	c.t.Helper()
	var s specs.State
	if err := json.Unmarshal(ask(c.t, c.rt, c.dir, "state", c.id), &s); err != nil {
		c.t.Fatal(err)
	}
	return s
}

// await waits for something about the container.
func (c *container) await(what string, there func() bool) {
	c.t.Helper()
	for end := time.Now().Add(deadline); !there(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			c.t.Fatalf("%s was not there after %v; the container said:\n%s", what, deadline, c.output())
		}
	}
}

func (c *container) awaitOutput(text string) {
	c.t.Helper()
	c.await(text, func() bool { return strings.Contains(c.output(), text) })
}

func (c *container) awaitStopped() {
	c.t.Helper()
	c.await("its end", func() bool { return c.state().Status == specs.StateStopped })
}
