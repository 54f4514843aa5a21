//go:build e2e

package run

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/runcvm/runcvm/test/harness"
)

// sleeper runs a container that has printed a line and then waits, and returns its record.
func sleeper(t *testing.T, h *harness.Host, name string, flags ...string) harness.Record {
	t.Helper()
	h.MustRun(append(append([]string{"run", "-d", "--name", name}, flags...), harness.Image, "sh", "-c", "echo up; exec sleep 10000")...)
	harness.Eventually(t, harness.Patience, func() error {
		if got := h.MustRun("logs", name); got != "up\n" {
			return fmt.Errorf("the log has %q", got)
		}
		return nil
	})
	return h.Record(name)
}

// foreground runs such a container with its caller staying there.
func foreground(t *testing.T, h *harness.Host, name, script string, flags ...string) (*harness.Running, harness.Record) {
	t.Helper()
	r := h.Start(append(append([]string{"run", "--name", name}, flags...), harness.Image, "sh", "-c", script)...)
	record := h.AwaitState(name, "running")
	harness.Eventually(t, harness.Patience, func() error {
		if got := h.MustRun("logs", name); got != "up\n" {
			return fmt.Errorf("the log has %q", got)
		}
		return nil
	})
	return r, record
}

// killing is how long the monitor takes at most to bring a container to its end that resists: its own deadlines for a stop
// signal, for SIGKILL and for a reader.
const killing = 30 * time.Second

// waiting prints a line and waits for as long as it takes.
const waiting = "echo up; exec sleep 10000"

// bounded runs a command that must end within a time, whatever the guest does.
func bounded(t *testing.T, h *harness.Host, within time.Duration, args ...string) string {
	t.Helper()
	r := h.Start(args...).Wait(within)
	if r.Code != 0 || r.Stderr != "" {
		t.Errorf("runcvm %s: exit code %d, stderr %q", strings.Join(args, " "), r.Code, r.Stderr)
	}
	return r.Stdout
}

// gone waits until processes have ended.
func gone(t *testing.T, pids ...int) {
	t.Helper()
	harness.Eventually(t, harness.Soon, func() error {
		for _, pid := range pids {
			if harness.Alive(pid) {
				return fmt.Errorf("process %d lives", pid)
			}
		}
		return nil
	})
}

func TestAGuestThatStopsAfterTheBoot(t *testing.T) {
	h := harness.New(t)
	record := sleeper(t, h, "stopped")
	vmm := h.VMM(record)
	harness.Kill(t, vmm, syscall.SIGSTOP)
	if got := bounded(t, h, harness.Soon, "logs", "stopped"); got != "up\n" {
		t.Errorf("logs prints %q", got)
	}
	if got := bounded(t, h, harness.Soon, "ps"); !strings.Contains(got, "stopped") || !strings.Contains(got, "   Up ") {
		t.Errorf("ps prints %q", got)
	}
	if r := h.Start("rm", "stopped").Wait(harness.Soon); r.Code == 0 || !strings.Contains(r.Stderr, "rm -f") {
		t.Errorf("rm: exit code %d, %q", r.Code, r.Stderr)
	}
	bounded(t, h, harness.Soon+killing, "rm", "-f", "stopped")
	gone(t, record.Pid, vmm)
}

func TestAVMMThatIsKilled(t *testing.T) {
	h := harness.New(t)
	r, record := foreground(t, h, "victim", waiting)
	vmm := h.VMM(record)
	descendants := harness.Children(vmm)
	harness.Kill(t, vmm, syscall.SIGKILL)
	got := r.Wait(harness.Soon)
	if got.Code != 137 || got.Stdout != "up\n" || !strings.Contains(got.Stderr, "container victim: the VMM ended: signal: killed") ||
		!strings.Contains(got.Stderr, "guest's console") {
		t.Errorf("exit code %d, stdout %q, stderr %q", got.Code, got.Stdout, got.Stderr)
	}
	if e := h.Record("victim"); e.State != "stopped" || e.ExitCode != 137 || e.Pid != 0 || !strings.Contains(e.Error, "the VMM ended") {
		t.Errorf("its record is %+v", e)
	}
	if ps := h.MustRun("ps"); strings.Contains(ps, "victim") {
		t.Errorf("ps prints %q", ps)
	}
	gone(t, append(descendants, vmm, record.Pid)...)
	h.MustRun("rm", "victim")
}

func TestAMonitorThatIsKilled(t *testing.T) {
	for _, c := range []struct{ detached, remove bool }{{false, false}, {false, true}, {true, false}, {true, true}} {
		t.Run(fmt.Sprintf("detached %t, --rm %t", c.detached, c.remove), func(t *testing.T) {
			h := harness.New(t)
			var flags []string
			if c.remove {
				flags = append(flags, "--rm")
			} else {
				h.Env = []string{"ROOTFS_CACHE_ACTIVE=0"} // a disk that nobody but the monitor knows of
			}
			var caller *harness.Running
			var record harness.Record
			if c.detached {
				record = sleeper(t, h, "orphan", flags...)
			} else {
				caller, record = foreground(t, h, "orphan", waiting, flags...)
			}
			vmm := h.VMM(record)
			descendants := harness.Children(vmm)
			harness.Kill(t, record.Pid, syscall.SIGKILL)
			if caller != nil {
				if r := caller.Wait(harness.Soon); r.Code != 137 || !strings.Contains(r.Stderr, "monitor was killed") {
					t.Errorf("the caller's exit code is %d, stderr %q", r.Code, r.Stderr)
				}
			}
			gone(t, append(descendants, vmm, record.Pid)...)
			if c.remove {
				if left := h.Records(); len(left) != 0 {
					t.Errorf("left: %+v", left)
				}
				return
			}
			if e := h.Record("orphan"); e.State != "stopped" || e.ExitCode != 137 || !strings.Contains(e.Error, "monitor was killed") {
				t.Errorf("its record is %+v", e)
			}
			if logs := h.MustRun("logs", "orphan"); logs != "up\n" {
				t.Errorf("logs prints %q", logs)
			}
			h.MustRun("rm", "orphan")
		})
	}
}

func TestAMonitorThatIsKilledDuringTheBoot(t *testing.T) {
	h := harness.New(t)
	r, vmm := bootingVMM(t, h, "--rm")
	record := h.Record("boots")
	harness.Kill(t, record.Pid, syscall.SIGKILL)
	if got := r.Wait(harness.Soon); got.Code != 125 || !strings.Contains(got.Stderr, "signal: killed") {
		t.Errorf("exit code %d, stderr %q", got.Code, got.Stderr)
	}
	gone(t, vmm, record.Pid)
}

func TestANameIsOneContainersUntilItIsRemoved(t *testing.T) {
	h := harness.New(t)
	record := sleeper(t, h, "web")
	refused := func(state string) {
		t.Helper()
		r := h.Run("run", "--name", "web", harness.Image, "true")
		if r.Code != 125 || r.Stdout != "" || !strings.Contains(r.Stderr, `"web" is in use by container `+record.ID[:12]+" ("+state+")") {
			t.Errorf("exit code %d, stdout %q, stderr %q", r.Code, r.Stdout, r.Stderr)
		}
		if all := h.Records(); len(all) != 1 || all[0].ID != record.ID || all[0].State != state {
			t.Errorf("the containers are %+v", all)
		}
	}
	refused("running")
	harness.Kill(t, h.VMM(record), syscall.SIGKILL)
	h.AwaitState("web", "stopped")
	refused("stopped")
	h.MustRun("rm", "web")
	if got := h.MustRun("run", "--rm", "--name", "web", harness.Image, "echo", "second"); got != "second\n" {
		t.Errorf("the second container of the name prints %q", got)
	}
}

func TestACallerThatIsKilledTakesItsContainerAlong(t *testing.T) {
	t.Run("with --rm", func(t *testing.T) {
		h := harness.New(t)
		r, record := foreground(t, h, "left", waiting, "--rm")
		vmm := h.VMM(record)
		r.Signal(syscall.SIGKILL)
		// The process ignores the stop signal, as a first process does.
		harness.Eventually(t, harness.Soon+killing, func() error {
			if left := h.Records(); len(left) != 0 {
				return fmt.Errorf("left: %+v", left)
			}
			return nil
		})
		gone(t, vmm, record.Pid)
	})
	t.Run("without --rm", func(t *testing.T) {
		h := harness.New(t)
		r, record := foreground(t, h, "left", "trap 'echo stopping; exit 9' TERM; echo up; while :; do sleep 0.1; done")
		r.Signal(syscall.SIGKILL)
		if e := h.AwaitState("left", "stopped"); e.ExitCode != 9 {
			t.Errorf("its record is %+v", e)
		}
		gone(t, record.Pid)
		if logs := h.MustRun("logs", "left"); logs != "up\nstopping\n" {
			t.Errorf("logs prints %q", logs)
		}
		h.MustRun("rm", "left")
	})
}

func TestASignalToTheCallerIsTheContainers(t *testing.T) {
	h := harness.New(t)
	r, _ := foreground(t, h, "told", "trap 'echo told; exit 9' TERM; echo up; while :; do sleep 0.1; done", "--rm")
	r.Signal(syscall.SIGTERM)
	if got := r.Wait(harness.Soon); got.Code != 9 || got.Stdout != "up\ntold\n" || got.Stderr != "" {
		t.Errorf("exit code %d, stdout %q, stderr %q", got.Code, got.Stdout, got.Stderr)
	}
}

// TestAReaderThatNeverReadsDoesNotHoldUpTheEnd asks for the end of a container whose output nobody takes.
func TestAReaderThatNeverReadsDoesNotHoldUpTheEnd(t *testing.T) {
	h := harness.New(t)
	cmd, _ := start(t, h, nil, "run", "--name", "unread", harness.Image, "sh", "-c", "exec yes")
	h.AwaitState("unread", "running")
	harness.Eventually(t, harness.Patience, func() error {
		if h.Run("logs", "unread").Stdout == "" {
			return errors.New("no output yet")
		}
		return nil
	})
	bounded(t, h, harness.Soon+killing, "rm", "-f", "unread")
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 137 {
		t.Errorf("exit code %d", code)
	}
}
