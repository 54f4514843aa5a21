//go:build e2e

// Package lifecycle tests the verbs that start, stop, watch and inspect containers on real guests.
package lifecycle

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/runcvm/runcvm/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// counter counts its starts on its disk, and ends in order on SIGTERM.
const counter = `echo boot >>/boots; trap 'echo term; exit 3' TERM; echo "start $(wc -l </boots) $1"; while :; do sleep 0.1; done`

// inspected is what the tests read of inspect.
type inspected struct {
	ID      string `json:"Id"`
	Name    string
	Created string
	Path    string
	Args    []string
	Image   string
	State   struct {
		Status                                       string
		Running, Paused, Restarting, OOMKilled, Dead bool
		Pid, ExitCode                                int
		Error, StartedAt, FinishedAt                 string
	}
	RestartCount int
	HostConfig   struct {
		Memory, NanoCpus, PidsLimit int64
		RestartPolicy               struct {
			Name              string
			MaximumRetryCount int
		}
		AutoRemove bool
	}
	Config struct {
		Env, Cmd   []string
		Labels     map[string]string
		StopSignal string
		Hostname   string
	}
	RunCVM struct {
		VMM struct {
			Path     string `json:"path"`
			Emulated bool   `json:"emulated"`
		}
		Kernel, Disk string
	}
}

func inspect(t *testing.T, h *harness.Host, name string) inspected {
	t.Helper()
	var all []inspected
	if err := json.Unmarshal([]byte(h.MustRun("inspect", "--type", "container", name)), &all); err != nil || len(all) != 1 {
		t.Fatalf("inspect %s: %d objects, %v", name, len(all), err)
	}
	return all[0]
}

// awaitLog waits until a container's standard output has this end.
func awaitLog(t *testing.T, h *harness.Host, name, end string) {
	t.Helper()
	harness.Eventually(t, harness.Patience, func() error {
		if r := h.Run("logs", name); r.Code != 0 || !strings.HasSuffix(r.Stdout, end) {
			return fmt.Errorf("logs: %+v, want %q at its end", r, end)
		}
		return nil
	})
}

// fails runs a command that must fail with this text.
func fails(t *testing.T, h *harness.Host, text string, args ...string) {
	t.Helper()
	if r := h.Run(args...); r.Code != 1 || !strings.Contains(r.Stderr, text) {
		t.Errorf("runcvm %s: exit code %d, %q; want 1 and %q", strings.Join(args, " "), r.Code, r.Stderr, text)
	}
}

// prints runs a command that must print this line and nothing else.
func prints(t *testing.T, h *harness.Host, want string, args ...string) {
	t.Helper()
	if got := h.MustRun(args...); got != want+"\n" {
		t.Errorf("runcvm %s prints %q, want %q", strings.Join(args, " "), got, want)
	}
}

// actions are what events tells of a container, with exit codes and signals; of exec's without the command.
func actions(t *testing.T, h *harness.Host, name string) []string {
	t.Helper()
	format := `{{.Action}}{{with .Actor.Attributes.exitCode}}={{.}}{{end}}{{with .Actor.Attributes.signal}}={{.}}{{end}}`
	out := h.MustRun("events", "--since", "2h", "--until", "0s", "--filter", "container="+name, "--format", format)
	var all []string
	for line := range strings.Lines(out) {
		action, _, isExec := strings.Cut(strings.TrimSpace(line), ": ")
		if !isExec {
			action = strings.TrimSpace(line)
		}
		all = append(all, action)
	}
	return all
}

func TestAContainerIsStartedAgainWithItsDisk(t *testing.T) {
	h := harness.New(t)
	id := strings.TrimSpace(h.MustRun("create", "--name", "again", "--label", "who=me", harness.Image, "sh", "-c", counter, "sh", "one"))
	if c := inspect(t, h, "again"); c.ID != id || c.State.Status != "created" || c.State.Running || c.State.StartedAt != "0001-01-01T00:00:00Z" {
		t.Errorf("after create: %+v", c)
	}
	prints(t, h, "0", "wait", "again")
	fails(t, h, "is not running", "kill", "again")
	prints(t, h, "again", "stop", "again") // as in Docker, nothing to do

	// Of two starts at once one does it, and both succeed.
	first, second := h.Start("start", "again"), h.Start("start", "again")
	for _, r := range []*harness.Running{first, second} {
		if r := r.Wait(harness.Patience); r.Code != 0 || r.Stdout != "again\n" || r.Stderr != "" {
			t.Errorf("start: %+v", r)
		}
	}
	awaitLog(t, h, "again", "start 1 one\n")
	prints(t, h, "again", "start", "again") // it runs already

	waiters := []*harness.Running{h.Start("wait", "again"), h.Start("wait", "again"), h.Start("wait", id[:12])}
	follower := h.Start("logs", "-f", "again")
	prints(t, h, "again", "stop", "-t", "300", "again")
	for _, w := range waiters {
		if r := w.Wait(harness.Patience); r.Code != 0 || r.Stdout != "3\n" {
			t.Errorf("wait: %+v", r)
		}
	}
	if r := follower.Wait(harness.Patience); r.Code != 0 || r.Stdout != "start 1 one\nterm\n" || r.Stderr != "" {
		t.Errorf("logs -f: %+v", r)
	}
	prints(t, h, "3", "wait", "again")
	if c := inspect(t, h, "again"); c.State.Status != "exited" || c.State.ExitCode != 3 || c.State.Pid != 0 || c.State.Error != "" {
		t.Errorf("after stop: %+v", c.State)
	}

	// An image that a container was made of stays, and its name can go.
	fails(t, h, "the image of container again", "rmi", harness.Image)
	stageIsFresh(t, h, id)

	h.MustRun("start", "again")
	awaitLog(t, h, "again", "term\nstart 2 one\n")
	if got := staged(t, h, id); len(got) != 5 || got[2] != counter || got[4] != "one" {
		t.Errorf("the disk has the command %q", got)
	}
	follower = h.Start("logs", "-f", "--tail", "1", "again")
	prints(t, h, "again", "restart", "-t", "300", "again")
	awaitLog(t, h, "again", "start 2 one\nterm\nstart 3 one\n")
	if c := inspect(t, h, "again"); c.ID != id || c.RestartCount != 0 || c.State.Status != "running" || c.State.ExitCode != 0 {
		t.Errorf("after restart: %+v", c)
	}

	// A VMM that is killed leaves the disk as a power failure does: what was synchronised is there.
	h.MustRun("exec", "again", "sync")
	record := h.Record("again")
	harness.Kill(t, h.VMM(record), 9)
	if r := follower.Wait(harness.Patience); r.Code != 0 || r.Stdout != "start 2 one\nterm\nstart 3 one\n" {
		t.Errorf("logs -f over a restart: %+v", r)
	}
	prints(t, h, "137", "wait", "again")
	prints(t, h, "renamed", "start", rename(t, h, "again", "renamed"))
	awaitLog(t, h, "renamed", "start 4 one\n")
	// The grace is over at once: SIGKILL.
	h.MustRun("exec", "renamed", "sh", "-c", "kill -STOP 1 || true; touch /stopped")
	prints(t, h, "renamed", "stop", "-t", "0", "-s", "URG", "renamed")
	prints(t, h, "137", "wait", "renamed")

	want := "create start kill=15 die=3 stop start kill=15 die=3 stop start restart exec_create exec_start exec_die=0 die=137 rename start exec_create exec_start exec_die=0 kill=23 kill=9 die=137 stop"
	if got := strings.Join(actions(t, h, id), " "); got != want {
		t.Errorf("events\n%s, want\n%s", got, want)
	}
	h.MustRun("rm", "renamed")
	if got := actions(t, h, id); got[len(got)-1] != "destroy" {
		t.Errorf("the last event is %s", got[len(got)-1])
	}
}

func rename(t *testing.T, h *harness.Host, from, to string) string {
	t.Helper()
	if out := h.MustRun("rename", from, to); out != "" {
		t.Errorf("rename prints %q", out)
	}
	fails(t, h, "no container", "inspect", "--type", "container", from)
	return to
}

// stageIsFresh spoils the command on the container's disk: no start may run it.
func stageIsFresh(t *testing.T, h *harness.Host, id string) {
	t.Helper()
	disk := filepath.Join(h.DataDir, "containers", id, "rootfs.ext4")
	stale := filepath.Join(t.TempDir(), "stale")
	if err := os.WriteFile(stale, []byte(`["sh","-c","echo stale"]`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, request := range []string{"rm /.runcvm/entrypoint", "write " + stale + " /.runcvm/entrypoint"} {
		if out, err := exec.Command("debugfs", "-w", "-R", request, disk).CombinedOutput(); err != nil {
			t.Fatalf("debugfs: %v: %s", err, out)
		}
	}
}

// staged is the command on a container's disk, as debugfs shows it.
func staged(t *testing.T, h *harness.Host, id string) []string {
	t.Helper()
	out, err := exec.Command("debugfs", "-R", "cat /.runcvm/entrypoint", filepath.Join(h.DataDir, "containers", id, "rootfs.ext4")).Output()
	var args []string
	if err == nil {
		err = json.Unmarshal(out, &args)
	}
	if err != nil {
		t.Fatalf("the staged command %q: %v", out, err)
	}
	return args
}
