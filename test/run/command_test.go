//go:build e2e

package run

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/runcvm/runcvm/test/harness"
)

func TestArgumentsArriveByteForByte(t *testing.T) {
	args := []string{
		"-leading", "--", "", "two words", "new\nline\n", `"double"`, `'single'`, "back\\slash", "$HOME `id` $(id)", "tab\t", "é漢🙂", "\x01\x7f",
		strings.Repeat("0123456789abcde\n", 100<<10/16), "",
	}
	h := harness.New(t)
	got := h.MustRun(append([]string{"run", "--rm", harness.Image, "printf", `%s\0`}, args...)...)
	want := strings.Join(args, "\x00") + "\x00"
	if got != want {
		t.Errorf("got %d bytes, want %d: %.300q", len(got), len(want), got)
	}
}

func TestArgumentsThatCannotBeCarriedAreRefused(t *testing.T) {
	h := harness.New(t)
	r := h.Run("run", "--rm", harness.Image, "echo", "\xff")
	if r.Code != 125 || !strings.Contains(r.Stderr, "UTF-8") || r.Stdout != "" {
		t.Errorf("exit code %d, stderr %q", r.Code, r.Stderr)
	}
}

// entrypoint reads the staged command from a container's disk, without a boot.
func entrypoint(t *testing.T, h *harness.Host, name string) string {
	t.Helper()
	disks, err := filepath.Glob(filepath.Join(h.DataDir, "containers", "*", "rootfs.ext4"))
	if err != nil || len(disks) != 1 {
		t.Fatalf("disks of %s: %v, %v", name, disks, err)
	}
	out, err := exec.Command("debugfs", "-R", "cat /.runcvm/entrypoint", disks[0]).Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func TestEachRunRunsItsOwnCommandWithAnyCache(t *testing.T) {
	for name, env := range map[string][]string{
		"cache on":          {"ROOTFS_CACHE_ACTIVE=1"},
		"cache off":         {"ROOTFS_CACHE_ACTIVE=0"},
		"one key for both":  {"RUNCVM_CACHE_KEY=same"},
		"key and cache off": {"ROOTFS_CACHE_ACTIVE=0", "RUNCVM_CACHE_KEY=same"},
	} {
		t.Run(name, func(t *testing.T) {
			h := harness.New(t)
			h.Env = env
			for _, word := range []string{"first", "second"} {
				if got := h.MustRun("run", "--name", word, harness.Image, "echo", word); got != word+"\n" {
					t.Errorf("%s printed %q", word, got)
				}
				if got, want := strings.TrimSpace(entrypoint(t, h, word)), fmt.Sprintf(`["echo",%q]`, word); got != want {
					t.Errorf("the disk of %s has %s, want %s", word, got, want)
				}
				h.MustRun("rm", word)
			}
		})
	}
}

func TestOneCacheKeyOnTwoImagesGivesEachItsOwnFiles(t *testing.T) {
	h := harness.New(t)
	for _, name := range []string{"one", "two"} {
		h.Derive(name, map[string]string{"which": name}, func(c *v1.Config) {
			// From the image's own environment, where the key is honoured as well.
			c.Env = append(c.Env, "RUNCVM_CACHE_KEY=same")
		})
	}
	for _, name := range []string{"one", "two", "one"} {
		if got := h.MustRun("run", "--rm", name, "cat", "/which"); got != name {
			t.Errorf("%s has the files of %q", name, got)
		}
	}
}

func TestAnImageWithoutACommandIsAnErrorAndStartsNoShell(t *testing.T) {
	h := harness.New(t)
	h.Derive("nocommand", nil, func(c *v1.Config) { c.Cmd, c.Entrypoint = nil, nil })
	r := h.Run("run", "--rm", "nocommand")
	if r.Code != 125 || !strings.Contains(r.Stderr, "no command") || r.Stdout != "" {
		t.Errorf("exit code %d, stdout %q, stderr %q", r.Code, r.Stdout, r.Stderr)
	}
}

func TestTheLogsSayWhichCommandWasStagedAndRun(t *testing.T) {
	h := harness.New(t)
	h.Env = []string{"RUNCVM_LOG_LEVEL=debug"}
	h.MustRun("run", "--name", "logged", harness.Image, "echo", "hello there")
	if log := h.MustRun("logs", "--source", "monitor", "logged"); !strings.Contains(log, "Injected /.runcvm/entrypoint") {
		t.Errorf("the host's log has no word of the entrypoint:\n%s", log)
	}
	if log := h.MustRun("logs", "--source", "console", "logged"); !strings.Contains(log, "Running saved entrypoint: ") ||
		!strings.Contains(log, "hello there") {
		t.Errorf("the guest's log has no word of the entrypoint:\n%s", log)
	}
	h.MustRun("rm", "logged")
}

func TestTheImagesConfigurationIsHonoured(t *testing.T) {
	h := harness.New(t)
	h.Derive("configured", map[string]string{"etc/passwd": "root:x:0:0::/root:/bin/sh\napp:x:1234:2345::/home/app:/bin/sh\n",
		"etc/group": "root:x:0:\napp:x:2345:\nextra:x:3456:app\n", "entry": "#!/bin/sh\necho \"$1 $2\"; shift 2; exec \"$@\"\n"},
		func(c *v1.Config) {
			c.Entrypoint, c.Cmd = []string{"/entry"}, []string{"a", "b", "sh", "-c", "id -u; id -G; pwd; echo $VAR $HOME"}
			c.Env, c.User, c.WorkingDir = append(c.Env, "VAR=image"), "app", "/srv/dir"
		})
	if got, want := h.MustRun("run", "--rm", "configured"), "a b\n1234\n2345 3456\n/srv/dir\nimage /home/app\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	got := h.MustRun("run", "--rm", "-e", "VAR=flag", "-u", "7:8", "-w", "/tmp", "--entrypoint", "sh", "configured", "-c",
		"id -u; id -g; pwd; echo $VAR")
	if want := "7\n8\n/tmp\nflag\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestTheFlagsOfRun(t *testing.T) {
	file := filepath.Join(t.TempDir(), "env")
	if err := os.WriteFile(file, []byte("# comment\nFROM_FILE=a b\nFROM_HERE\nNOWHERE\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	h := harness.New(t)
	h.Env = []string{"FROM_HERE=here"}
	script := `echo "$FROM_FILE,$FROM_HERE,${NOWHERE-unset}"; hostname; touch /file 2>/dev/null || echo read-only
		stat -f -c %T /scratch; stat -c %a /scratch; cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max; nproc`
	got := h.MustRun("run", "--rm", "--env-file", file, "--hostname", "box", "--read-only", "--tmpfs", "/scratch:mode=700", "--memory", "64m",
		"--cpus", "1.5", harness.Image, "sh", "-c", script)
	want := "a b,here,unset\nbox\nread-only\ntmpfs\n700\n67108864\n150000 100000\n2\n"
	if got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestTheWritableDiskHasTheSizeThatWasAskedFor(t *testing.T) {
	h := harness.New(t)
	r := h.Run("run", "--rm", "--size", "64m", harness.Image, "sh", "-c",
		"head -c 100000000 /dev/zero >/file || { stat -c %s /file; exit 9; }")
	var size int64
	if _, err := fmt.Sscan(r.Stdout, &size); err != nil || r.Code != 9 || !strings.Contains(r.Stderr, "No space left") ||
		size < 40<<20 || size > 64<<20 {
		t.Errorf("exit code %d, %q (%v), stderr %q", r.Code, r.Stdout, err, r.Stderr)
	}
}

func TestACommandThatRunsTooLongIsKilled(t *testing.T) {
	h := harness.New(t)
	r := h.Run("run", "--rm", "--timeout", "2", harness.Image, "sleep", "1000")
	if r.Code != 137 {
		t.Errorf("exit code %d, stderr %q", r.Code, r.Stderr)
	}
}

func TestACommandThatCannotBeExecuted(t *testing.T) {
	for name, c := range map[string]struct {
		command string
		code    int
	}{"missing": {"no-such-program", 127}, "not executable": {"/etc/passwd", 126}, "a directory": {"/etc", 126}} {
		t.Run(name, func(t *testing.T) {
			h := harness.New(t)
			r := h.Run("run", "--rm", harness.Image, c.command)
			if r.Code != c.code || !strings.Contains(r.Stderr, c.command) || r.Stdout != "" {
				t.Errorf("exit code %d, stdout %q, stderr %q", r.Code, r.Stdout, r.Stderr)
			}
		})
	}
}

func TestADetachedContainerRunsOnAndIsSeen(t *testing.T) {
	h := harness.New(t)
	id := strings.TrimSpace(h.MustRun("run", "-d", "--name", "web", harness.Image, "sh", "-c", "echo up; echo bad >&2; exec sleep 1000"))
	if ps := h.MustRun("ps"); !strings.Contains(ps, id[:12]) || !strings.Contains(ps, "   Up ") || !strings.Contains(ps, "web") {
		t.Errorf("ps prints %q", ps)
	}
	// The command has started when run returns, which says nothing of how far it is.
	harness.Eventually(t, harness.Patience, func() error {
		if r := h.Run("logs", "web"); r.Stdout != "up\n" || r.Stderr != "bad\n" {
			return fmt.Errorf("logs prints %q and %q", r.Stdout, r.Stderr)
		}
		return nil
	})
	if chart := h.MustRun("timeline", "web"); !strings.Contains(chart, "instance-start") || !strings.Contains(chart, "process") {
		t.Errorf("timeline prints %q", chart)
	}
	if r := h.Run("rm", "web"); r.Code == 0 || !strings.Contains(r.Stderr, "rm -f") {
		t.Errorf("rm of a running container: exit code %d, %q", r.Code, r.Stderr)
	}
	h.MustRun("rm", "-f", "web")
	if ps := h.MustRun("ps", "-aq"); ps != "" {
		t.Errorf("ps -aq prints %q", ps)
	}
}
