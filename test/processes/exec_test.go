//go:build e2e

package processes

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/runcvm/runcvm/test/harness"
)

func TestExec(t *testing.T) {
	h := container(t, "--name", "c", "-w", "/tmp", "-u", "daemon", "-e", "A=container", "-e", "B=container", harness.ToolsImage, "sleep", "infinity")
	t.Run("gives output, errors and exit codes", func(t *testing.T) { execCodes(t, h) })
	t.Run("runs as the container does, unless told otherwise", func(t *testing.T) { execContext(t, h) })
	t.Run("gives input only when asked for", func(t *testing.T) { execInput(t, h) })
	t.Run("in the background", func(t *testing.T) { execDetached(t, h) })
	t.Run("hands signals on", func(t *testing.T) { execSignals(t, h) })
	t.Run("does not wait for what a process leaves in the background", func(t *testing.T) {
		r := h.Run("exec", "c", "sh", "-c", "sleep 987 & echo done")
		if r.Stdout != "done\n" || r.Code != 0 || r.Stderr != "" {
			t.Errorf("%+v", r)
		}
		h.MustRun("exec", "c", "pkill", "-f", "sleep 987")
	})
	t.Run("ends a writer whose reader is gone by SIGPIPE", func(t *testing.T) {
		cmd := h.Command("exec", "c", "seq", "99000000")
		out, err := cmd.StdoutPipe()
		if err = errors.Join(err, cmd.Start()); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(out, make([]byte, 8)); err != nil {
			t.Fatal(err)
		}
		out.Close()
		if exit := new(exec.ExitError); !errors.As(cmd.Wait(), &exit) || exit.ExitCode() != 141 {
			t.Errorf("it ended with %v", cmd.ProcessState)
		}
	})
	t.Run("a hundred times, twenty at a time", func(t *testing.T) { manyExecs(t, h) })
	t.Run("not in a container that is paused", func(t *testing.T) {
		h.MustRun("pause", "c")
		for verb, want := range map[string]string{
			"exec c true": "runcvm: container c is paused, unpause the container before exec\n",
			"attach c":    "runcvm: you cannot attach to a paused container, unpause it first\n",
		} {
			if r := h.Run(strings.Fields(verb)...); r.Code != 1 || r.Stderr != want {
				t.Errorf("%s: %+v", verb, r)
			}
		}
		h.MustRun("unpause", "c")
		h.MustRun("exec", "c", "true")
	})
	t.Run("ends with the container", func(t *testing.T) {
		r := h.Start("exec", "c", "sleep", "654")
		awaitProcess(t, h, "c", "sleep 654", true)
		h.MustRun("rm", "-f", "c")
		if got := r.Wait(harness.Patience); got.Code != 137 {
			t.Errorf("%+v", got)
		}
	})
	if r := h.Run("exec", "c", "true"); r.Code != 1 || !strings.Contains(r.Stderr, `no container "c"`) {
		t.Errorf("into a container that there is not: %+v", r)
	}
}

func execCodes(t *testing.T, h *harness.Host) {
	for _, c := range []struct {
		args   string
		code   int
		stdout string
		stderr string
	}{
		{"true", 0, "", ""},
		{"sh|-c|echo out; echo err >&2; exit 7", 7, "out\n", "err\n"},
		{"sh|-c|kill -9 $$", 137, "", ""},
		{"sh|-c|kill -TERM $$", 143, "", ""},
		{"nonexistent", 127, "", "runcvm: exec: \"nonexistent\": executable file not found in $PATH\n"},
		{"/nonexistent", 127, "", "runcvm: exec: \"/nonexistent\": stat /nonexistent: no such file or directory\n"},
		{"/etc/passwd", 126, "", "runcvm: exec: \"/etc/passwd\": permission denied\n"},
		{"/etc", 126, "", "runcvm: exec: \"/etc\": is a directory\n"},
		{"/dev/null", 126, "", "runcvm: exec: \"/dev/null\": permission denied\n"},
		{"printf|%s|  two  words\n", 0, "  two  words\n", ""},
	} {
		r := h.Run(append([]string{"exec", "c"}, strings.Split(c.args, "|")...)...)
		if r.Code != c.code || r.Stdout != c.stdout || r.Stderr != c.stderr {
			t.Errorf("%s: %+v", c.args, r)
		}
	}
	for flags, code := range map[string]int{"-w|/nonexistent": 127, "-w|relative": 1, "-u|nobody-here": 126, "-it": 1, "--bogus": 125} {
		r := h.Run(append(append([]string{"exec"}, strings.Split(flags, "|")...), "c", "true")...)
		if r.Code != code || r.Stderr == "" || r.Stdout != "" {
			t.Errorf("exec %s: %+v", flags, r)
		}
		if flags == "-it" && r.Stderr != "runcvm: the input device is not a TTY\n" {
			t.Errorf("exec -it: %q", r.Stderr)
		}
	}
}

func execContext(t *testing.T, h *harness.Host) {
	const show = "id; pwd; echo $A $B $C $HOME"
	file := filepath.Join(t.TempDir(), "env")
	if err := os.WriteFile(file, []byte("# a comment\nA=file\nC=file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ flags, want string }{
		{"", "uid=1(daemon) gid=1(daemon) groups=1(daemon)\n/tmp\ncontainer container /usr/sbin\n"},
		{"-u|root|-w|/usr/lib/../bin|-e|B=exec", "uid=0(root) gid=0(root) groups=0(root)\n/usr/bin\ncontainer exec /root\n"},
		{"-u|7:42|--env-file|" + file + "|-e|HOME=/h", "uid=7(lp) gid=42(shadow) groups=42(shadow)\n/tmp\nfile container file /h\n"},
	} {
		args := []string{"exec"}
		if c.flags != "" {
			args = append(args, strings.Split(c.flags, "|")...)
		}
		if got := h.MustRun(append(args, "c", "sh", "-c", show)...); got != c.want {
			t.Errorf("exec %s: %q, want %q", c.flags, got, c.want)
		}
	}
	const caps = "grep -E 'CapBnd|CapEff' /proc/self/status"
	if got := h.MustRun("exec", "-u", "root", "c", "sh", "-c", caps); got != "CapEff:\t00000000a80425fb\nCapBnd:\t00000000a80425fb\n" {
		t.Errorf("as the container: %s", got)
	}
	if got := h.MustRun("exec", "--privileged", "-u", "root", "c", "sh", "-c", caps); got != "CapEff:\t000001ffffffffff\nCapBnd:\t000001ffffffffff\n" {
		t.Errorf("privileged: %s", got)
	}
	same := "readlink /proc/self/ns/pid /proc/self/ns/mnt /proc/self/ns/uts /proc/self/ns/ipc; cat /proc/self/cgroup"
	if own, got := h.MustRun("exec", "c", "sh", "-c", strings.ReplaceAll(same, "self", "1")), h.MustRun("exec", "c", "sh", "-c", same); own != got {
		t.Errorf("it is in %s, the container in %s", got, own)
	}
}

func execInput(t *testing.T, h *harness.Host) {
	in := bytes.Repeat([]byte("a line of the input\n"), 250_000)
	want := fmt.Sprintf("%x  -\n", sha256.Sum256(in))
	if r := h.RunInput(bytes.NewReader(in), "exec", "-i", "c", "sha256sum"); r.Stdout != want || r.Code != 0 {
		t.Errorf("%+v", r)
	}
	if r := h.RunInput(bytes.NewReader(in), "exec", "c", "cat"); r.Stdout != "" || r.Code != 0 {
		t.Errorf("without -i: %d bytes, exit code %d", len(r.Stdout), r.Code)
	}
	if r := h.RunInput(bytes.NewReader(in), "exec", "-i", "c", "head", "-n", "1"); r.Stdout != "a line of the input\n" || r.Code != 0 {
		t.Errorf("a process that leaves its input: %+v", r)
	}
}

// awaitProcess waits until a process with this command line runs in the container, or does not.
func awaitProcess(t *testing.T, h *harness.Host, name, command string, there bool) {
	t.Helper()
	harness.Eventually(t, harness.Patience, func() error {
		r := h.Run("exec", name, "pgrep", "-fx", command)
		if (r.Code == 0) != there {
			return fmt.Errorf("pgrep of %q: %+v", command, r)
		}
		return nil
	})
}

func execDetached(t *testing.T, h *harness.Host) {
	if out := h.MustRun("exec", "-d", "c", "sh", "-c", "cat; echo gone; echo here > /tmp/detached; exec sleep 321"); out != "" {
		t.Errorf("it says %q", out)
	}
	awaitProcess(t, h, "c", "sleep 321", true)
	if got := h.MustRun("exec", "c", "cat", "/tmp/detached"); got != "here\n" {
		t.Errorf("it has written %q", got)
	}
	h.MustRun("exec", "c", "pkill", "-f", "sleep 321")
	awaitProcess(t, h, "c", "sleep 321", false)
	if r := h.Run("exec", "-d", "c", "nonexistent"); r.Code != 127 {
		t.Errorf("%+v", r)
	}
	h.MustRun("exec", "-d", "-t", "c", "sh", "-c", "test -t 1 && exec sleep 432")
	awaitProcess(t, h, "c", "sleep 432", true)
	h.MustRun("exec", "c", "pkill", "-f", "sleep 432")
}

func execSignals(t *testing.T, h *harness.Host) {
	r := h.Start("exec", "c", "sh", "-c", "trap 'echo got it; exit 9' USR1; touch /tmp/ready; while :; do sleep 0.1; done")
	harness.Eventually(t, harness.Patience, func() error {
		if got := h.Run("exec", "c", "test", "-e", "/tmp/ready"); got.Code != 0 {
			return errors.New("it does not run")
		}
		return nil
	})
	r.Signal(syscall.SIGUSR1)
	if got := r.Wait(harness.Patience); got.Code != 9 || got.Stdout != "got it\n" {
		t.Errorf("%+v", got)
	}
	r = h.Start("exec", "c", "sleep", "789")
	awaitProcess(t, h, "c", "sleep 789", true)
	r.Signal(syscall.SIGKILL)
	awaitProcess(t, h, "c", "sleep 789", false)
}

func manyExecs(t *testing.T, h *harness.Host) {
	const (
		all, atOnce = 100, 20
		size        = 1 << 20
	)
	numbers := make(chan int)
	var group sync.WaitGroup
	for range atOnce {
		group.Go(func() {
			for n := range numbers {
				line := fmt.Sprintf("line of %d\n", n)
				want := sha256.Sum256([]byte(strings.Repeat(line, size/len(line)+1)[:size]))
				r := h.Run("exec", "c", "sh", "-c", `yes "$0" | head -c 1048576; exit "$1"`, strings.TrimSuffix(line, "\n"), fmt.Sprint(n))
				if sha256.Sum256([]byte(r.Stdout)) != want || r.Code != n || r.Stderr != "" {
					t.Errorf("number %d: %d bytes, exit code %d, %q", n, len(r.Stdout), r.Code, r.Stderr)
				}
			}
		})
	}
	for n := range all {
		numbers <- n
	}
	close(numbers)
	group.Wait()
}
