//go:build e2e

package lifecycle

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/runcvm/runcvm/test/harness"
)

// TestAContainerIsWatched has one guest for all that looks into it.
func TestAContainerIsWatched(t *testing.T) {
	h := harness.New(t)
	h.MustRun("run", "-d", "--name", "busy", "-m", "256m", "--cpus", "0.5", "--pids-limit", "60", "--user", "games", "--label", "a=b",
		"--stop-signal", "USR1", "--hostname", "watched", "-e", "X=y", harness.Image,
		"sh", "-c", "trap 'echo hup' HUP; trap 'echo usr; exit 5' USR1; dd if=/dev/zero of=/tmp/f bs=64k count=64 conv=fsync 2>/dev/null; "+
			"echo out; until [ -e /tmp/err ]; do sleep 0.1; done; echo err >&2; (while :; do :; done) & while :; do sleep 0.1; done")
	awaitLog(t, h, "busy", "out\n")
	// The two streams have connections of their own, and no order but this.
	h.MustRun("exec", "busy", "touch", "/tmp/err")
	harness.Eventually(t, harness.Patience, func() error {
		if r := h.Run("logs", "busy"); r.Stdout != "out\n" || r.Stderr != "err\n" {
			return fmt.Errorf("logs: %+v", r)
		}
		return nil
	})
	t.Run("top", func(t *testing.T) { watchTop(t, h) })
	t.Run("stats", func(t *testing.T) { watchStats(t, h) })
	t.Run("inspect", func(t *testing.T) { watchInspect(t, h) })
	t.Run("logs", func(t *testing.T) { watchLogs(t, h) })
	t.Run("signals", func(t *testing.T) { watchSignals(t, h) })
	h.MustRun("rm", "-f", "busy")
	if got := strings.Join(actions(t, h, "busy"), " "); !strings.HasSuffix(got, "kill=1 kill=10 die=5 destroy") {
		t.Errorf("events: %s", got)
	}
}

func watchTop(t *testing.T, h *harness.Host) {
	lines := strings.Split(strings.TrimSpace(h.MustRun("top", "busy")), "\n")
	if got := strings.Fields(lines[0]); strings.Join(got, " ") != "UID PID PPID C STIME TTY TIME CMD" {
		t.Errorf("top's heading is %q", lines[0])
	}
	if len(lines) < 3 || !regexp.MustCompile(`^games +1 +0 +\d+ +\d\d:\d\d +\? +\d\d:\d\d:\d\d +sh -c trap`).MatchString(lines[1]) {
		t.Errorf("top prints %q", lines)
	}
	if got := h.MustRun("top", "busy", "-o", "user=WHO,comm"); !strings.HasPrefix(got, "WHO ") || !strings.Contains(got, "sh\n") {
		t.Errorf("top -o prints %q", got)
	}
	if got := h.MustRun("top", "busy", "aux"); !strings.HasPrefix(got, "USER ") || !strings.Contains(got, "%MEM") {
		t.Errorf("top aux prints %q", got)
	}
	fails(t, h, "--forest", "top", "busy", "--forest")
	fails(t, h, `"colour"`, "top", "busy", "-o", "pid,colour")
}

func watchStats(t *testing.T, h *harness.Host) {
	var s struct{ Name, ID, CPUPerc, MemUsage, MemPerc, BlockIO, PIDs, VMMMem string }
	harness.Eventually(t, harness.Patience, func() error {
		if err := json.Unmarshal([]byte(h.MustRun("stats", "--no-stream", "--format", "json", "busy")), &s); err != nil {
			return err
		}
		cpu, err := strconv.ParseFloat(strings.TrimSuffix(s.CPUPerc, "%"), 64)
		if err != nil || cpu < 5 || cpu > 75 {
			return fmt.Errorf("%s of a processor, of which it gets a half and takes all", s.CPUPerc)
		}
		if pids, err := strconv.Atoi(s.PIDs); err != nil || pids < 2 || pids > 6 {
			return fmt.Errorf("%s processes", s.PIDs)
		}
		if strings.HasSuffix(s.BlockIO, "/ 0B") {
			return fmt.Errorf("no byte was written: %s", s.BlockIO)
		}
		return nil
	})
	if s.Name != "busy" || len(s.ID) != 12 || !strings.HasSuffix(s.MemUsage, " / 256MiB") || s.MemPerc == "0.00%" || s.VMMMem == "0B" {
		t.Errorf("stats: %+v", s)
	}
	if table := h.MustRun("stats", "--no-stream"); !strings.HasPrefix(table, "CONTAINER ID") || !strings.Contains(table, "busy") {
		t.Errorf("stats prints %q", table)
	}
}

func watchInspect(t *testing.T, h *harness.Host) {
	c := inspect(t, h, "busy")
	hc := c.HostConfig
	if c.Name != "/busy" || c.Path != "sh" || len(c.Args) != 2 || c.State.Status != "running" || c.State.Pid == 0 || hc.Memory != 256<<20 ||
		hc.NanoCpus != 5e8 || hc.PidsLimit != 60 || hc.RestartPolicy.Name != "no" || c.Config.Labels["a"] != "b" ||
		c.Config.StopSignal != "USR1" || c.Config.Hostname != "watched" || !strings.Contains(strings.Join(c.Config.Env, " "), "X=y") {
		t.Errorf("inspect: %+v", c)
	}
	if c.RunCVM.Kernel == "" || c.RunCVM.VMM.Emulated != harness.Emulated() {
		t.Errorf("the VMM: %+v", c.RunCVM)
	}
	if got := staged(t, h, c.ID); got[0] != "sh" || len(got) != 3 {
		t.Errorf("staged: %q", got)
	}
	for format, want := range map[string]string{
		"{{.State.Status}} {{.HostConfig.Memory}}": "running 268435456", "{{.Id}}": c.ID, "{{.ID}}": c.ID,
		`{{json .Config.Labels}} {{if eq .State.ExitCode 0}}ok{{end}}`: `{"a":"b"} ok`, "{{.Config.User}}": "games",
	} {
		prints(t, h, want, "inspect", "--format", format, "busy")
	}
	fails(t, h, "Nothing", "inspect", "--format", "{{.Nothing}}", "busy")
	if r := h.Run("inspect", "busy", "nobody"); r.Code != 1 || !strings.Contains(r.Stderr, "no such object: nobody") || !strings.HasPrefix(r.Stdout, "[\n") {
		t.Errorf("inspect of nobody: %+v", r)
	}
	if got := h.MustRun("inspect", "--type", "image", "--format", "{{.RepoTags}} {{.Os}} {{.Architecture}}", harness.Image); got != "["+harness.Image+"] linux amd64\n" {
		t.Errorf("inspect of an image: %q", got)
	}
}

func watchLogs(t *testing.T, h *harness.Host) {
	r := h.Run("logs", "-t", "busy")
	stamped := regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z (out|err)\n$`)
	if !stamped.MatchString(r.Stdout) || !stamped.MatchString(r.Stderr) {
		t.Errorf("logs -t: %+v", r)
	}
	stamp := strings.Fields(r.Stdout)[0]
	for _, c := range []struct{ flags, stdout, stderr string }{
		{"--tail 0", "", ""}, {"--tail 1", "", "err\n"}, {"--tail 2", "out\n", "err\n"}, {"--tail 99", "out\n", "err\n"},
		{"--since 24h", "out\n", "err\n"}, {"--since 0s", "", ""}, {"--until 24h", "", ""}, {"--since " + stamp, "out\n", "err\n"},
		{"--until 2006-01-02", "", ""},
	} {
		r := h.Run(append(append([]string{"logs"}, strings.Fields(c.flags)...), "busy")...)
		if r.Code != 0 || r.Stdout != c.stdout || r.Stderr != c.stderr {
			t.Errorf("logs %s: %+v", c.flags, r)
		}
	}
	fails(t, h, "--tail", "logs", "--tail", "some", "busy")
	fails(t, h, "--since", "logs", "--since", "yesterday", "busy")
}

// watchSignals ends it. It has a stop signal of its own.
func watchSignals(t *testing.T, h *harness.Host) {
	follower := h.Start("logs", "-f", "--tail", "0", "busy")
	prints(t, h, "busy", "kill", "-s", "HUP", "busy")
	awaitLog(t, h, "busy", "hup\n")
	fails(t, h, `"NONE" is no signal`, "kill", "-s", "NONE", "busy")
	fails(t, h, `"65" is no signal`, "kill", "-s", "65", "busy")
	prints(t, h, "busy", "kill", "--signal", "10", "busy")
	prints(t, h, "5", "wait", "busy")
	if r := follower.Wait(harness.Patience); r.Code != 0 || r.Stdout != "hup\nusr\n" {
		t.Errorf("logs -f: %+v", r)
	}
	if got := h.MustRun("ps", "-a", "--filter", "exited=5", "--filter", "label=a=b", "--format", "{{.Names}}"); got != "busy\n" {
		t.Errorf("ps: %q", got)
	}
}

func TestAContainerThatRunsOutOfMemory(t *testing.T) {
	h := harness.New(t)
	h.MustRun("run", "-d", "--name", "hog", "-m", "64m", "--restart", "on-failure:1", harness.Image, "tail", "/dev/zero")
	prints(t, h, "137", "wait", "hog")
	if c := inspect(t, h, "hog"); !c.State.OOMKilled || c.State.ExitCode != 137 || c.RestartCount != 1 {
		t.Errorf("inspect: %+v", c)
	}
	if got := strings.Join(actions(t, h, "hog"), " "); got != "create start oom die=137 start oom die=137" {
		t.Errorf("events: %s", got)
	}
	h.MustRun("rm", "hog")
}
