package guest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/guestapi"
)

const (
	crunPath = "/bin/crun"
	crunRoot = "/run/crun"
	// crunTimeout bounds how long crun may take to get a container's process to its exec. It is generous: under emulation
	// everything is 20 times slower.
	crunTimeout = 60 * time.Second
	// maxCrunLog bounds what is read of crun's log, in bytes.
	maxCrunLog = 64 << 10
)

// startError is a process that could not be executed.
type startError struct {
	text string
	// code is what a shell would give: 127, 126 or 125.
	code uint32
}

func (e *startError) Error() string { return e.text }

// Exit codes of a command that was not executed, as shells and docker give them.
const (
	exitNotFound      = 127
	exitNotExecutable = 126
	exitFailed        = 125
)

// launch is one run of crun that leaves a process behind.
type launch struct {
	task    *task
	process *process
	streams [3]bool
	size    *guestapi.ConsoleSize
	// check says why the command cannot be executed.
	check func() error
	// command is crun's, before the flags that launch adds and the container's id.
	command          []string
	id               string
	pidFile, logFile string
}

// start runs the container's process. A *startError says that it could not be executed.
func (a *agent) start(c *container, streams [3]bool, size *guestapi.ConsoleSize) (pid int, err error) {
	pidFile := filepath.Join(c.dir, "pid")
	pid, done, err := a.launch(&launch{
		task: &c.task, process: c.process, streams: streams, size: size, pidFile: pidFile, logFile: filepath.Join(c.dir, "crun.log"),
		check: func() error {
			if err := c.checkCommand(c.process); err != nil {
				return err
			}
			return setSysctls(c.process.sysctls)
		},
		command: []string{"run", "--detach", "--bundle", c.bundle(), "--pid-file", pidFile}, id: c.id,
	})
	if err != nil {
		return 0, err
	}
	c.began(pid)
	go func() { c.finish(<-done) }()
	return pid, nil
}

// launch runs a process and returns where its exit will come.
func (a *agent) launch(l *launch) (pid int, done <-chan exit, err error) {
	stdio, ours, err := l.openStdio()
	if err != nil {
		return 0, nil, err
	}
	// The process's exit may come before its pid is read.
	hold := a.reaper.hold()
	defer hold.release()
	if err = l.check(); err == nil {
		err = a.runCrun(l, stdio)
	}
	closeAll(stdio[:])
	if err != nil {
		slog.Debug("the process was not executed", "process", l.task.name, "error", err)
		discard(ours[guestapi.Stdout:])
	}
	l.task.pump(ours)
	if err != nil {
		return 0, nil, explain(l.process, err)
	}
	if pid, err = readPid(l.pidFile); err != nil {
		return 0, nil, err
	}
	return pid, hold.claim(pid), nil
}

// pump starts moving the bytes of the process's streams. It is done even where the process could not be executed: then the host,
// which may be opening them at this moment, gets their end and no error.
func (t *task) pump(ours [3]*os.File) {
	run := func(f func() error) {
		t.pumps.Go(func() {
			if err := f(); err != nil {
				slog.Warn("a stream ended early", "process", t.name, "error", err)
			}
		})
	}
	if t.terminal != nil {
		t.terminal.pump(t, run)
		return
	}
	for i, f := range ours {
		if f != nil {
			run(func() error { return t.streams[i].pump(f, t.ended) })
		}
	}
}

// discard takes out of the pipes what crun itself has written to them when it failed: it is not the process's output.
func discard(pipes []*os.File) {
	for _, f := range pipes {
		if f != nil && f.SetReadDeadline(time.Now().Add(time.Second)) == nil {
			// What cannot be read is no worse than what is thrown away.
			_, _ = io.CopyN(io.Discard, f, maxCrunLog)
			_ = f.SetReadDeadline(time.Time{})
		}
	}
}

func closeAll(files []*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}

// openStdio opens the process's three standard files and the agent's ends of their pipes. With a terminal crun opens them itself.
func (l *launch) openStdio() (stdio [3]*os.File, ours [3]*os.File, err error) {
	for i := range stdio {
		kind := guestapi.Stream(i)
		if !l.streams[i] {
			l.task.streams[i].close()
		}
		if !l.streams[i] || l.process.terminal {
			stdio[i], err = os.OpenFile(os.DevNull, nullMode(kind), 0)
		} else if stdio[i], ours[i], err = pipeFor(kind); err == nil {
			// The process may open /dev/stdout and the like again, which checks the owner.
			err = stdio[i].Chown(int(l.process.user.UID), int(l.process.user.GID))
		}
		if err != nil {
			closeAll(stdio[:])
			closeAll(ours[:])
			return stdio, ours, err
		}
	}
	return stdio, ours, nil
}

// nullMode is how a standard file that is /dev/null is opened, as a shell does it.
func nullMode(kind guestapi.Stream) int {
	if kind == guestapi.Stdin {
		return os.O_RDONLY
	}
	return os.O_WRONLY
}

// runCrun starts the process and returns when crun has ended. The process inherits these three files and no others: all that
// the agent opens is closed on exec.
func (a *agent) runCrun(l *launch, stdio [3]*os.File) error {
	argv := append([]string{"crun", "--root", crunRoot, "--cgroup-manager=cgroupfs", "--log=file:" + l.logFile, "--log-format=json"},
		l.command...)
	var console *console
	if l.process.terminal {
		var err error
		if console, err = newConsole(); err != nil {
			return err
		}
		defer console.close()
		argv = append(argv, "--console-socket", console.path)
	}
	argv = append(argv, l.id)
	files := make([]uintptr, len(stdio))
	for i, f := range stdio {
		files[i] = f.Fd()
	}
	pid, done, err := a.reaper.start(func() (int, error) {
		// A child inherits the agent's protection, and crun before 1.9 does not take it back: such a container could not be killed
		// when it exceeds its memory. So the agent goes without for the length of the fork; the reaper's lock makes it one at a time.
		if err := setOOMScore(oomDefault); err != nil {
			return 0, err
		}
		pid, err := syscall.ForkExec(crunPath, argv, &syscall.ProcAttr{
			Dir: "/", Env: []string{"PATH=/bin"}, Files: files, Sys: &syscall.SysProcAttr{Setsid: true}})
		if perr := setOOMScore(oomProtected); perr != nil {
			slog.Error("the agent is not protected", "error", perr)
		}
		return pid, err
	})
	if err != nil {
		return fmt.Errorf("crun: %w", err)
	}
	e, ok := waitExit(done, crunTimeout)
	if !ok {
		return errors.Join(fmt.Errorf("crun did not start the process within %s", crunTimeout), a.reaper.signal(pid, unix.SIGKILL))
	}
	if e.code != 0 {
		return errors.New(crunMessage(l.logFile, e.code))
	}
	if console != nil {
		return l.task.setTerminal(console, l.size)
	}
	return nil
}

// crunMessage is the last error of crun's log.
func crunMessage(path string, code uint32) string {
	b, err := readFileBounded(path, maxCrunLog)
	message := fmt.Sprintf("crun failed with exit code %d", code)
	if err != nil {
		return message
	}
	for line := range strings.Lines(string(b)) {
		var entry struct{ Msg, Level string }
		if json.Unmarshal([]byte(line), &entry) == nil && entry.Msg != "" && entry.Level == "error" {
			message = entry.Msg
		}
	}
	return message
}

// explain makes crun's failure one that the user knows.
func explain(p *process, cause error) error {
	if known := (*startError)(nil); errors.As(cause, &known) {
		return cause
	}
	text := cause.Error()
	switch lower := strings.ToLower(text); {
	case strings.Contains(lower, "executable file") && strings.Contains(lower, "not found"):
		return &startError{fmt.Sprintf("exec: %q: executable file not found in $PATH", p.args[0]), exitNotFound}
	case strings.Contains(lower, "open executable"):
		return &startError{fmt.Sprintf("exec: %q: permission denied", p.args[0]), exitNotExecutable}
	case strings.HasPrefix(lower, "chdir") && strings.HasSuffix(lower, "no such file or directory"):
		return &startError{fmt.Sprintf("chdir to %q: no such file or directory", p.cwd), exitNotFound}
	case strings.HasPrefix(lower, "chdir"):
		return &startError{text, exitNotExecutable}
	}
	return &startError{text, exitFailed}
}

func readPid(path string) (int, error) {
	b, err := readFileBounded(path, 32)
	if err != nil {
		return 0, fmt.Errorf("crun's pid file: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid <= 1 {
		return 0, fmt.Errorf("crun's pid file: %q is no pid", b)
	}
	return pid, nil
}
