//go:build e2e

package processes

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/runcvm/runcvm/test/harness"
)

const prompt = "ready> "

// shell opens a shell whose prompt is known, without bash's own editing of lines.
func shell(t *testing.T, h *harness.Host, args ...string) *screen {
	t.Helper()
	s := open(t, h, 30, 100, append(args, "bash", "--noediting", "--norc")...)
	s.await(prompt)
	return s
}

// attachShell attaches to the container's shell, and asks it for its prompt: it does not draw it again by itself.
func attachShell(t *testing.T, h *harness.Host, args ...string) *screen {
	t.Helper()
	s := open(t, h, 25, 90, append(append([]string{"attach"}, args...), "c")...)
	s.keys("\r")
	s.await(prompt)
	return s
}

// TestTerminal runs a container on a terminal, leaves it by the detach keys, and looks at everything else in it by exec.
func TestTerminal(t *testing.T) {
	h := harness.New(t)
	h.Tools()
	if r := h.Run("run", "-it", harness.ToolsImage, "true"); r.Code != 1 || r.Stderr != "runcvm: the input device is not a TTY\n" {
		t.Errorf("run -it without a terminal: %+v", r)
	}
	s := shell(t, h, "run", "-it", "--name", "c", "-e", "PS1="+prompt, harness.ToolsImage)
	t.Run("of the container's own process", func(t *testing.T) { ownTerminal(t, s) })
	t.Run("is left by the detach keys and attached to again", func(t *testing.T) { detachAndAttach(t, h, s) })
	t.Run("has job control", func(t *testing.T) { jobControl(t, h) })
	t.Run("takes full-screen programs", func(t *testing.T) { fullScreen(t, h) })
	t.Run("loses nothing", func(t *testing.T) { longOutput(t, h) })
	t.Run("carries every byte", func(t *testing.T) { everyByte(t, h) })
	t.Run("is restored, and goes with its client", func(t *testing.T) { clientEnds(t, h) })
	a := attachShell(t, h)
	a.keys("exit 7\r")
	a.end(7)
	h.AwaitState("c", "stopped")
	if log := h.Run("logs", "c"); !strings.Contains(log.Stdout, "size 30 100\r\n") || log.Stderr != "" {
		t.Errorf("the log has %+v", log)
	}
	h.MustRun("rm", "c")
}

func ownTerminal(t *testing.T, s *screen) {
	s.t = t
	s.keys("echo size $(stty size) $TERM $(tty); ls -l /dev/console\r")
	s.await("size 30 100 xterm /dev/pts/0\r\ncrw--w---- 1 root tty 136, 0 ")
	s.await(prompt)
	s.resize(20, 70)
	harnessSize(s, "20 70")
	s.resize(30, 100)
	harnessSize(s, "30 100")
}

// harnessSize types until the terminal has this size.
func harnessSize(s *screen, size string) {
	s.t.Helper()
	s.keys("until [ \"$(stty size)\" = '" + size + "' ]; do sleep 0.1; done; echo size $(stty size)\r")
	s.await("size " + size + "\r\n" + prompt)
}

func detachAndAttach(t *testing.T, h *harness.Host, s *screen) {
	s.t = t
	s.keys("variable=kept\r")
	s.await(prompt)
	s.keys("\x10\x11")
	s.end(0)
	if r := h.Record("c"); r.State != "running" {
		t.Fatalf("the container is %s", r.State)
	}
	a, b := attachShell(t, h), attachShell(t, h, "--detach-keys", "ctrl-x,x")
	harnessSize(a, "25 90")
	a.keys("echo \"<$variable>\"\r")
	a.await("<kept>\r\n" + prompt)
	b.await("<kept>\r\n" + prompt)
	// A key of the sequence alone is the program's: bash's line is ended by it here.
	b.keys("echo b\x18y\r")
	b.await("echo b^Xy\r\nb\x18y\r\n" + prompt)
	b.keys("\x18x")
	b.await("read escape sequence")
	b.end(1)
	a.keys("\x10\x11")
	a.await("read escape sequence")
	a.end(1)
	if r := h.Run("attach", "c"); r.Code != 1 || r.Stderr != "runcvm: the input device is not a TTY\n" {
		t.Errorf("attach without a terminal: %+v", r)
	}
}

func jobControl(t *testing.T, h *harness.Host) {
	s := shell(t, h, "exec", "-it", "-e", "PS1="+prompt, "c")
	s.keys("sleep 555\r")
	awaitProcess(t, h, "c", "sleep 555", true)
	s.keys("\x03")
	s.await("^C\r\n" + prompt)
	s.run("echo after")
	s.await("=0=\r\n" + prompt)
	s.keys("sleep 666\r")
	awaitProcess(t, h, "c", "sleep 666", true)
	s.keys("\x1a")
	s.await("Stopped")
	s.await(prompt)
	s.keys("jobs\r")
	s.await("Stopped                 sleep 666\r\n" + prompt)
	s.keys("fg\r")
	s.await("sleep 666\r\n")
	awaitState(t, h, "sleep 666", "S")
	s.keys("\x03")
	s.await(prompt)
	s.keys("cat\r")
	s.await("cat\r\n")
	s.keys("a line\x04\x04")
	s.await("a linea line" + prompt)
	s.keys("exit 12\r")
	s.end(12)
}

// awaitState waits until the process with this command line is in a state of ps(1).
func awaitState(t *testing.T, h *harness.Host, command, state string) {
	t.Helper()
	harness.Eventually(t, harness.Patience, func() error {
		r := h.Run("exec", "c", "sh", "-c", "ps -o stat= -p $(pgrep -fx '"+command+"')")
		if !strings.HasPrefix(r.Stdout, state) {
			return fmt.Errorf("it is %+v", r)
		}
		return nil
	})
}

func fullScreen(t *testing.T, h *harness.Host) {
	vi := open(t, h, 24, 80, "exec", "-it", "c", "vi", "-u", "NONE", "/tmp/text")
	vi.shows("vi with an empty file", func(lines []string) bool {
		return lines[1] == "~" && lines[22] == "~" && strings.HasPrefix(lines[23], `"/tmp/text" [New`)
	})
	vi.keys("ione\rtwo\rthree\x1b")
	vi.shows("three lines", func(lines []string) bool {
		return lines[0] == "one" && lines[1] == "two" && lines[2] == "three" && lines[3] == "~"
	})
	vi.keys("ggOtop\x1bG$xx")
	vi.shows("a line above, and less below", func(lines []string) bool {
		return lines[0] == "top" && lines[3] == "thr" && lines[4] == "~"
	})
	vi.resize(12, 60)
	vi.shows("the same on a smaller screen", func(lines []string) bool {
		return lines[0] == "top" && lines[3] == "thr" && lines[10] == "~" && len(lines) >= 12
	})
	vi.keys(":wq\r")
	vi.end(0)
	if got := h.MustRun("exec", "c", "cat", "/tmp/text"); got != "top\none\ntwo\nthr\n" {
		t.Errorf("vi has written %q", got)
	}

	top := open(t, h, 24, 80, "exec", "-it", "c", "top", "-d", "1")
	list := func(lines []string) bool {
		return strings.HasPrefix(lines[0], "top - ") && strings.HasPrefix(lines[1], "Tasks:") && strings.Contains(lines[6], "PID USER") &&
			strings.Contains(strings.Join(lines[7:], "\n"), " top")
	}
	top.shows("top's list", list)
	top.resize(40, 110)
	top.shows("top's list on a larger screen", func(lines []string) bool {
		return list(lines) && strings.Contains(lines[6], "COMMAND")
	})
	top.keys("q")
	top.end(0)
}

func longOutput(t *testing.T, h *harness.Host) {
	const size = 10 << 20
	s := open(t, h, 24, 80, "exec", "-it", "c", "sh", "-c", "stty -opost; yes 0123456789abcdefghijklmnopqrstuvwxyz | head -c 10485760")
	s.end(0)
	harness.Eventually(t, harness.Patience, func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.raw) < size {
			return fmt.Errorf("%d bytes have come", len(s.raw))
		}
		return nil
	})
	line := "0123456789abcdefghijklmnopqrstuvwxyz\n"
	want := strings.Repeat(line, size/len(line)+1)[:size]
	s.mu.Lock()
	defer s.mu.Unlock()
	if sha256.Sum256(s.raw) != sha256.Sum256([]byte(want)) {
		t.Errorf("%d bytes have come, or others than were sent", len(s.raw))
	}
}

func everyByte(t *testing.T, h *harness.Host) {
	s := open(t, h, 24, 80, "exec", "-it", "--detach-keys", "", "c", "sh", "-c", "stty raw -echo; echo ready; head -c 1024; echo end")
	s.await("ready\n")
	var all []byte
	for range 4 {
		for b := range 256 {
			all = append(all, byte(b))
		}
	}
	s.keys(string(all))
	s.await("end\n")
	s.end(0)
	s.mu.Lock()
	defer s.mu.Unlock()
	if want := append(append([]byte("ready\n"), all...), "end\n"...); !bytes.Equal(s.raw, want) {
		t.Errorf("%q came back", s.raw)
	}
}

func clientEnds(t *testing.T, h *harness.Host) {
	// Detached from, it keeps its terminal.
	s := shell(t, h, "exec", "-it", "-e", "PS1="+prompt, "c")
	s.keys("sleep 777; sleep 778\r")
	awaitProcess(t, h, "c", "sleep 777", true)
	s.keys("\x10\x11")
	s.await("read escape sequence")
	s.end(1)
	h.MustRun("exec", "c", "pkill", "-f", "sleep 777")
	awaitProcess(t, h, "c", "sleep 778", true)
	h.MustRun("exec", "c", "pkill", "-f", "sleep 778")

	s = shell(t, h, "exec", "-it", "-e", "PS1="+prompt, "c")
	s.keys("exec sleep 888\r")
	awaitProcess(t, h, "c", "sleep 888", true)
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	s.end(143)

	s = shell(t, h, "exec", "-it", "-e", "PS1="+prompt, "c")
	s.keys("exec sleep 999\r")
	awaitProcess(t, h, "c", "sleep 999", true)
	if err := s.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = s.cmd.Wait()
	awaitProcess(t, h, "c", "sleep 999", false)

	s = open(t, h, 24, 80, "exec", "-it", "c", "nonexistent")
	s.end(127)

	a := attachShell(t, h)
	if err := a.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	a.end(129)
	if r := h.Record("c"); r.State != "running" {
		t.Errorf("the container is %s", r.State)
	}
}
