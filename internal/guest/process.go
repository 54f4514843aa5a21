package guest

import (
	"encoding/json"
	"errors"
	"fmt"
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

// start runs the container's process. A *startError says that it could not be executed.
func (a *agent) start(c *container, p *process, streams [3]bool) (pid int, err error) {
	stdio, ours, err := openStdio(c, p, streams)
	if err != nil {
		return 0, err
	}
	// The process's exit may come before its pid is read.
	release := a.reaper.hold()
	defer release()
	err = a.runCrun(c, stdio)
	for _, f := range stdio {
		f.Close()
	}
	a.pump(c, ours)
	if err != nil {
		return 0, explain(c, p, err)
	}
	if pid, err = readPid(c.pidFile()); err != nil {
		return 0, err
	}
	done := a.reaper.claim(pid)
	c.began(pid)
	go func() { c.finish(<-done) }()
	return pid, nil
}

// pump starts moving the bytes of the process's streams. It is done even where the process could not be executed: then the host,
// which may be opening them at this moment, gets their end and no error.
func (a *agent) pump(c *container, ours [3]*os.File) {
	for i, f := range ours {
		if f == nil {
			continue
		}
		go func() {
			if err := c.streams[i].pump(f, c.ended); err != nil {
				slog.Warn("a stream ended early", "container", c.id, "error", err)
			}
		}()
	}
}

func (c *container) pidFile() string { return filepath.Join(c.dir, "pid") }
func (c *container) logFile() string { return filepath.Join(c.dir, "crun.log") }

// openStdio opens the process's three standard files and the agent's ends of their pipes.
func openStdio(c *container, p *process, streams [3]bool) (stdio [3]*os.File, ours [3]*os.File, err error) {
	for i := range stdio {
		kind := guestapi.Stream(i)
		if !streams[i] {
			c.streams[i].close()
			stdio[i], err = os.OpenFile(os.DevNull, os.O_RDWR, 0)
		} else if stdio[i], ours[i], err = pipeFor(kind); err == nil {
			// The process may open /dev/stdout and the like again, which checks the owner.
			err = stdio[i].Chown(int(p.user.UID), int(p.user.GID))
		}
		if err != nil {
			for _, f := range append(stdio[:], ours[:]...) {
				if f != nil {
					f.Close()
				}
			}
			return stdio, ours, err
		}
	}
	return stdio, ours, nil
}

// runCrun starts the container and returns when crun has ended. The process inherits these three files and no others: all that
// the agent opens is closed on exec.
func (a *agent) runCrun(c *container, stdio [3]*os.File) error {
	argv := []string{"crun", "--root", crunRoot, "--cgroup-manager=cgroupfs", "--log=file:" + c.logFile(), "--log-format=json",
		"run", "--detach", "--bundle", c.bundle(), "--pid-file", c.pidFile(), c.id}
	files := make([]uintptr, len(stdio))
	for i, f := range stdio {
		files[i] = f.Fd()
	}
	pid, done, err := a.reaper.start(func() (int, error) {
		return syscall.ForkExec(crunPath, argv, &syscall.ProcAttr{
			Dir: "/", Env: []string{"PATH=/bin"}, Files: files, Sys: &syscall.SysProcAttr{Setsid: true}})
	})
	if err != nil {
		return fmt.Errorf("crun: %w", err)
	}
	e, ok := waitExit(done, crunTimeout)
	if !ok {
		return errors.Join(fmt.Errorf("crun did not start the container within %s", crunTimeout), a.reaper.signal(pid, unix.SIGKILL))
	}
	if e.code != 0 {
		return errors.New(crunMessage(c.logFile(), e.code))
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

// explain makes crun's failure one that the user knows: when the command itself is the reason, in the words and with the exit code
// of docker and of shells.
func explain(c *container, p *process, cause error) error {
	slog.Debug("crun failed", "container", c.id, "error", cause)
	rootfs, err := unix.Open(c.rootfs(), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return errors.Join(cause, err)
	}
	defer unix.Close(rootfs)
	if e := lookPath(rootfs, p); e != nil {
		return e
	}
	text := cause.Error()
	switch lower := strings.ToLower(text); {
	case strings.Contains(lower, "exec format error"):
		return &startError{fmt.Sprintf("exec %q: exec format error", p.args[0]), 126}
	case strings.Contains(lower, "exec") && strings.Contains(lower, "permission denied"):
		return &startError{fmt.Sprintf("exec %q: permission denied", p.args[0]), 126}
	case strings.Contains(lower, "exec") && strings.Contains(lower, "no such file or directory"):
		return &startError{fmt.Sprintf("exec %q: no such file or directory (its interpreter or loader is missing)", p.args[0]), 127}
	}
	return &startError{text, 125}
}

// lookPath says whether the command's file is the reason why it could not be executed, following execvp(3) in the container.
func lookPath(rootfs int, p *process) *startError {
	name := p.args[0]
	if strings.Contains(name, "/") {
		path := name
		if !filepath.IsAbs(path) {
			path = filepath.Join(p.cwd, path)
		}
		switch err := executableIn(rootfs, path); {
		case errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR):
			return &startError{fmt.Sprintf("exec: %q: stat %s: no such file or directory", name, path), 127}
		case err != nil:
			return &startError{fmt.Sprintf("exec: %q: %v", name, err), 126}
		}
		return nil
	}
	denied := false
	for _, dir := range filepath.SplitList(pathOf(p.env)) {
		if !filepath.IsAbs(dir) {
			dir = filepath.Join(p.cwd, dir)
		}
		switch err := executableIn(rootfs, filepath.Join(dir, name)); {
		case err == nil:
			return nil
		case errors.Is(err, unix.EACCES):
			denied = true
		}
	}
	if denied {
		return &startError{fmt.Sprintf("exec: %q: permission denied", name), 126}
	}
	return &startError{fmt.Sprintf("exec: %q: executable file not found in $PATH", name), 127}
}

func pathOf(env []string) string {
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, "PATH="); ok {
			return v
		}
	}
	return "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
}

// executableIn says whether path, in the container, is a file that somebody may execute.
func executableIn(rootfs int, path string) error {
	fd, err := unix.Openat2(rootfs, path, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS})
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	switch {
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return unix.EISDIR
	case st.Mode&unix.S_IFMT != unix.S_IFREG || st.Mode&0o111 == 0:
		return unix.EACCES
	}
	return nil
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
