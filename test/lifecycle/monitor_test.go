//go:build e2e

package lifecycle

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/runcvm/runcvm/test/harness"
)

// guestless is a host whose VMM runs no guest: its container's process behaves as the mode of package hostile says.
func guestless(t *testing.T, mode string) *harness.Host {
	t.Helper()
	h := harness.New(t)
	h.Env = []string{"RUNCVM_VMM=" + harness.Program(t, "guestless"), "RUNCVM_KERNEL_ARGS=hostile=" + mode}
	return h
}

// restarted waits until the policy has started a container again so often.
func restarted(t *testing.T, h *harness.Host, name string, times int) {
	t.Helper()
	harness.Eventually(t, harness.Patience, func() error {
		if c := inspect(t, h, name); c.RestartCount < times {
			return fmt.Errorf("%s was started again %d times", name, c.RestartCount)
		}
		return nil
	})
}

func TestAMonitorStartsItsContainerAgainUntilSomebodyEndsIt(t *testing.T) {
	h := guestless(t, "honest") // ends at once with 7
	for _, c := range []struct {
		name string
		end  func(t *testing.T, r harness.Record)
		code string
	}{
		{"stop", func(t *testing.T, _ harness.Record) { prints(t, h, "c", "stop", "c") }, "7"},
		{"kill", func(t *testing.T, _ harness.Record) {
			// Where it is in the middle of its end, docker kill fails as well, and the next one finds it waiting.
			harness.Eventually(t, harness.Patience, func() error {
				if r := h.Run("kill", "c"); r.Code != 0 {
					return fmt.Errorf("%+v", r)
				}
				return nil
			})
		}, "7"},
		{"SIGTERM", func(t *testing.T, r harness.Record) { harness.Kill(t, r.Pid, syscall.SIGTERM) }, "7"},
		{"the monitor is killed", func(t *testing.T, r harness.Record) { harness.Kill(t, r.Pid, syscall.SIGKILL) }, "137"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := h.Run("run", "--name", "c", "--restart", "always", harness.Image, "true")
			id := h.Record("c").ID
			if r.Code != 7 || r.Stdout != "stdout\n" || r.Stderr != "stderr\n" {
				t.Errorf("run: %+v", r)
			}
			restarted(t, h, "c", 3)
			waiter := h.Start("wait", "c")
			c.end(t, h.Record("c"))
			if r := waiter.Wait(harness.Patience); r.Stdout != c.code+"\n" && r.Stdout != "7\n" {
				t.Errorf("wait: %+v", r)
			}
			harness.Eventually(t, harness.Soon, func() error {
				if c := inspect(t, h, "c"); c.State.Running || c.RestartCount < 3 {
					return fmt.Errorf("%+v", c)
				}
				return nil
			})
			// Each life's end is told once, and each start.
			starts, ends := 0, 0
			for _, a := range actions(t, h, id) {
				starts += strings.Count(a, "start") // not "restart": nobody asked for that
				ends += strings.Count(a, "die")
			}
			if starts < 3 || ends != starts {
				t.Errorf("%d starts and %d ends: %s", starts, ends, actions(t, h, id))
			}
			h.MustRun("rm", "c")
		})
	}
	t.Run("rm -f", func(t *testing.T) {
		h.MustRun("run", "-d", "--name", "c", "--restart", "unless-stopped", harness.Image, "true")
		restarted(t, h, "c", 2)
		h.MustRun("rm", "-f", "c")
	})
}

func TestARestartBeginsTheContainersPolicyAnew(t *testing.T) {
	h := guestless(t, "honest")
	h.MustRun("run", "-d", "--name", "c", "--restart", "on-failure:6", harness.Image, "true")
	restarted(t, h, "c", 4)
	h.MustRun("restart", "c")
	if c := inspect(t, h, "c"); c.RestartCount > 3 {
		t.Errorf("after a restart it counts %d", c.RestartCount)
	}
	prints(t, h, "7", "wait", "c")
	if c := inspect(t, h, "c"); c.RestartCount != 6 || c.State.Status != "exited" {
		t.Errorf("in the end: %+v", c)
	}
	// A later start is one, too.
	h.MustRun("start", "c")
	prints(t, h, "7", "wait", "c")
	if c := inspect(t, h, "c"); c.RestartCount != 6 {
		t.Errorf("after a start it counts %d", c.RestartCount)
	}
	h.MustRun("rm", "c")
}

func TestABootThatFailsCountsAsAFailure(t *testing.T) {
	h := guestless(t, "honest")
	dir := t.TempDir()
	broken, vmm := filepath.Join(dir, "broken"), filepath.Join(dir, "vmm")
	script := fmt.Sprintf("#!/bin/sh\nif [ -e %s ]; then echo it is broken >&2; exit 3; fi\nexec %s \"$@\"\n", broken, harness.Program(t, "guestless"))
	if err := os.WriteFile(vmm, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	h.Env = append(h.Env, "RUNCVM_VMM="+vmm)
	h.MustRun("run", "-d", "--name", "c", "--restart", "always", harness.Image, "true")
	if err := os.WriteFile(broken, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, harness.Patience, func() error {
		if c := inspect(t, h, "c"); !strings.Contains(c.State.Error, "it is broken") || c.State.ExitCode != 125 {
			return fmt.Errorf("%+v", c.State)
		}
		return nil
	})
	// Who asks for a restart hears of it, and nobody starts it again.
	fails(t, h, "it is broken", "restart", "c")
	prints(t, h, "125", "wait", "c")
	// A start that fails leaves it as it was, with the reason.
	fails(t, h, "it is broken", "start", "c")
	if c := inspect(t, h, "c"); c.State.Status != "exited" || c.State.ExitCode != 125 || !strings.Contains(c.State.Error, "it is broken") {
		t.Errorf("after a start that failed: %+v", c.State)
	}
	if err := os.Remove(broken); err != nil {
		t.Fatal(err)
	}
	h.MustRun("start", "c")
	restarted(t, h, "c", 1)
	h.MustRun("rm", "-f", "c")

	// One that was only made stays so.
	h.MustRun("create", "--name", "made", harness.Image, "true")
	if err := os.WriteFile(broken, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	fails(t, h, "it is broken", "start", "-a", "made")
	if c := inspect(t, h, "made"); c.State.Status != "created" || c.State.ExitCode != 125 {
		t.Errorf("after a start that failed: %+v", c.State)
	}
	h.MustRun("rm", "made")
}

func TestManyVerbsAtOnce(t *testing.T) {
	h := guestless(t, "obedient") // ends by its first signal
	h.MustRun("create", "--name", "many", harness.Image, "true")
	const many = 8
	all := func(args ...string) {
		t.Helper()
		var running []*harness.Running
		for range many {
			running = append(running, h.Start(args...))
		}
		for _, r := range running {
			if got := r.Wait(harness.Patience); got.Code != 0 || got.Stderr != "" {
				t.Errorf("%s: %+v", args[0], got)
			}
		}
	}
	all("start", "many")
	if got := strings.Join(actions(t, h, "many"), " "); got != "create start" {
		t.Errorf("events: %s", got)
	}
	all("restart", "many")
	if c := inspect(t, h, "many"); c.State.Status != "running" {
		t.Errorf("after restarts: %+v", c.State)
	}
	waiters := make([]*harness.Running, many)
	for i := range waiters {
		waiters[i] = h.Start("wait", "many")
	}
	all("stop", "many")
	for _, w := range waiters {
		if r := w.Wait(harness.Patience); r.Stdout != "143\n" {
			t.Errorf("wait: %+v", r)
		}
	}
	// Verbs in a row meet the end of the monitor before them.
	for i := range 10 {
		h.MustRun("start", "many")
		prints(t, h, "many", []string{"stop", "kill"}[i%2], "many")
		prints(t, h, []string{"143", "137"}[i%2], "wait", "many")
	}
	prints(t, h, "many", "restart", "many") // one that has ended is started
	h.MustRun("rm", "-f", "many")
}

func TestAContainerThatIsRemovedAtItsEndOutlivesARestart(t *testing.T) {
	h := guestless(t, "obedient")
	run := h.Start("run", "--rm", "--name", "c", harness.Image, "true")
	h.AwaitState("c", "running")
	prints(t, h, "c", "restart", "c")
	// As in Docker the caller has heard of the first end.
	if r := run.Wait(harness.Patience); r.Code != 143 || r.Stdout != "stdout\n" {
		t.Errorf("run: %+v", r)
	}
	if c := inspect(t, h, "c"); c.State.Status != "running" || !c.HostConfig.AutoRemove {
		t.Errorf("after a restart: %+v", c)
	}
	waiter := h.Start("wait", "c")
	prints(t, h, "c", "stop", "c")
	if r := waiter.Wait(harness.Patience); r.Code != 0 || r.Stdout != "143\n" {
		t.Errorf("wait: %+v", r)
	}
	harness.Eventually(t, harness.Soon, func() error {
		if r := h.Run("inspect", "--type", "container", "c"); r.Code == 0 {
			return fmt.Errorf("it is there still: %s", r.Stdout)
		}
		return nil
	})
}

func TestAGuestThatTakesNoSignalIsStopped(t *testing.T) {
	h := guestless(t, "signal-never")
	h.MustRun("run", "-d", "--name", "c", harness.Image, "true")
	r := h.Start("stop", "-t", "1", "c").Wait(harness.Patience)
	if r.Code != 0 || r.Stdout != "c\n" {
		t.Errorf("stop: %+v", r)
	}
	prints(t, h, "137", "wait", "c")
	h.MustRun("rm", "c")
}

// A guest's lies about its processes reach no terminal.
func TestAGuestsLiesAreNotPrinted(t *testing.T) {
	h := guestless(t, "obedient")
	h.MustRun("run", "-d", "--name", "c", harness.Image, "true")
	r := h.Run("top", "c")
	if r.Code != 0 || strings.ContainsAny(r.Stdout, "\x1b\r") || len(strings.Split(r.Stdout, "\n")) > 4200 {
		t.Errorf("top: %d bytes, exit code %d", len(r.Stdout), r.Code)
	}
	if got := h.MustRun("stats", "--no-stream"); strings.Contains(got, "-") && strings.Contains(got, "NaN") {
		t.Errorf("stats: %q", got)
	}
	h.MustRun("rm", "-f", "c")
}
