//go:build e2e

package processes

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/creack/pty"
	"github.com/hinshun/vt10x"
	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/test/harness"
)

// screen is a user's terminal with a command of runcvm on it.
type screen struct {
	t    *testing.T
	cmd  *exec.Cmd
	pty  *os.File
	mode unix.Termios
	done chan struct{} // closed when the terminal has no user any more

	mu  sync.Mutex
	vt  vt10x.Terminal
	raw []byte
	// seen is how much of raw await has passed.
	seen int
}

// open runs runcvm on a terminal of this size.
func open(t *testing.T, h *harness.Host, rows, columns int, args ...string) *screen {
	t.Helper()
	s := &screen{t: t, cmd: h.Command(args...), done: make(chan struct{})}
	s.vt = vt10x.New(vt10x.WithSize(columns, rows))
	master, slave, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	s.pty = master
	s.resize(rows, columns)
	s.mode = s.termios()
	s.cmd.Stdin, s.cmd.Stdout, s.cmd.Stderr = slave, slave, slave
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// It stays open here until the command has ended, so that the terminal's mode can be asked for then.
	t.Cleanup(func() {
		_ = s.cmd.Process.Kill()
		slave.Close()
		master.Close()
		<-s.done
		if t.Failed() {
			t.Logf("%v: the screen is\n%s\nthe last bytes were %q", args, s.vt.String(), s.raw[max(0, len(s.raw)-2000):])
		}
	})
	go s.read()
	return s
}

func (s *screen) read() {
	defer close(s.done)
	buf := make([]byte, 32<<10)
	for {
		n, err := s.pty.Read(buf)
		s.mu.Lock()
		s.raw = append(s.raw, buf[:n]...)
		_, _ = s.vt.Write(buf[:n])
		s.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (s *screen) termios() unix.Termios {
	s.t.Helper()
	mode, err := unix.IoctlGetTermios(int(s.pty.Fd()), unix.TCGETS)
	if err != nil {
		s.t.Fatal(err)
	}
	return *mode
}

func (s *screen) resize(rows, columns int) {
	s.t.Helper()
	if err := pty.Setsize(s.pty, &pty.Winsize{Rows: uint16(rows), Cols: uint16(columns)}); err != nil {
		s.t.Fatal(err)
	}
	s.mu.Lock()
	s.vt.Resize(columns, rows)
	s.mu.Unlock()
}

func (s *screen) keys(keys string) {
	s.t.Helper()
	if _, err := s.pty.WriteString(keys); err != nil {
		s.t.Fatal(err)
	}
}

// await waits until these bytes have come, after those that it waited for before.
func (s *screen) await(text string) {
	s.t.Helper()
	harness.Eventually(s.t, harness.Patience, func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		i := bytes.Index(s.raw[s.seen:], []byte(text))
		if i < 0 {
			return fmt.Errorf("no %q in %q", text, s.raw[s.seen:])
		}
		s.seen += i + len(text)
		return nil
	})
}

// shows waits until the screen is as the condition says.
func (s *screen) shows(what string, condition func(lines []string) bool) {
	s.t.Helper()
	harness.Eventually(s.t, harness.Patience, func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		var lines []string
		for l := range strings.SplitSeq(s.vt.String(), "\n") {
			lines = append(lines, strings.TrimRight(l, " \x00"))
		}
		if !condition(lines) {
			return fmt.Errorf("the screen does not show %s:\n%s", what, strings.Join(lines, "\n"))
		}
		return nil
	})
}

// run types a command whose end shows by its exit code.
func (s *screen) run(command string) {
	s.t.Helper()
	s.keys(command + "; echo \"=$?=\"\r")
}

// end waits for the command's end, and that the terminal is as it was.
func (s *screen) end(code int) {
	s.t.Helper()
	ended := make(chan error, 1)
	go func() { ended <- s.cmd.Wait() }()
	err := <-ended
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
		s.t.Fatal(err)
	}
	if got := s.cmd.ProcessState.ExitCode(); got != code {
		s.t.Errorf("exit code %d, want %d", got, code)
	}
	if now := s.termios(); now != s.mode {
		s.t.Errorf("the terminal's mode is %+v, was %+v", now, s.mode)
	}
}
