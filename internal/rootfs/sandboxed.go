package rootfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// toolUID is the user, and the group, of the programs that read what a guest has written. It is nobody's: above the
	// ranges that container managers use (systemd's UIDS-GIDS.md), below 2^31, which some file systems do not go beyond.
	toolUID = 2_130_706_432
	// toolTimeout bounds one of them: a large disk after a power failure takes minutes on a slow machine.
	toolTimeout = 15 * time.Minute
	// toolParting is how long its output is waited for after its end: one that a guest's disk has taken over may leave a child.
	toolParting = 2 * time.Second
	// toolMemory bounds its address space, in bytes: e2fsck keeps some bitmaps of the disk's blocks and inodes.
	toolMemory = 4 << 30
	// maxToolOutput bounds what it may say, in bytes: a specification, or the commands' protocol.
	maxToolOutput = 32 << 20
	// maxToolText bounds what an error shows of that, in bytes.
	maxToolText = 2 << 10

	// diskPath is where the program finds the disk, its descriptor 3; inputPath the further files.
	diskPath = "/proc/self/fd/3"
)

func inputPath(i int) string { return fmt.Sprintf("/proc/self/fd/%d", 4+i) }

// lend gives the disk to toolUID until the returned function is called: a descriptor alone does not let /proc/self/fd open
// it again. Nobody else has that uid, and the directory is closed to it.
func lend(f *os.File) (release func() error, err error) {
	if err := f.Chown(toolUID, toolUID); err != nil {
		return nil, fmt.Errorf("give it to an unprivileged user: %w", err)
	}
	return func() error { return f.Chown(os.Getuid(), os.Getgid()) }, nil
}

// sandboxed runs a program of e2fsprogs on a disk that a guest has written, as a user without any privilege and without a
// way to get one, in namespaces without network, bounded in time, memory and output.
func sandboxed(ctx context.Context, disk *os.File, inputs []*os.File, program string, args ...string) (toolResult, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, toolTimeout, fmt.Errorf("%s has not ended within %s", program, toolTimeout))
	defer cancel()
	path, err := exec.LookPath(program)
	if err != nil {
		// Where root's PATH lacks it, Debian has it here.
		path = filepath.Join("/usr/sbin", program)
		if _, err := os.Stat(path); err != nil {
			return toolResult{}, fmt.Errorf("%s is missing: install e2fsprogs", program)
		}
	}
	info, err := disk.Stat()
	if err != nil {
		return toolResult{}, err
	}
	// The shell sets what Go cannot for a child alone: in KiB, and in blocks of 512 bytes, so that the disk does not grow.
	const limits = `ulimit -c 0 && ulimit -v "$1" && ulimit -f "$2" && shift 2 && exec "$@"`
	cmd := exec.CommandContext(ctx, "/bin/sh", append([]string{"-c", limits, "sh", fmt.Sprint(toolMemory >> 10),
		fmt.Sprint((info.Size() + 511) / 512), path}, args...)...)
	cmd.WaitDelay = toolParting
	cmd.Dir = "/"
	cmd.Env = []string{"LC_ALL=C", "E2FSCK_CONFIG=/dev/null", "DEBUGFS_PAGER=cat", "PAGER=cat"}
	cmd.ExtraFiles = append([]*os.File{disk}, inputs...)
	var stdout, stderr limited
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: toolUID, Gid: toolUID},
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC,
		Setsid:     true,
	}
	if err := startWithoutNewPrivileges(cmd); err != nil {
		return toolResult{}, fmt.Errorf("run %s: %w", program, err)
	}
	err = cmd.Wait()
	if c := context.Cause(ctx); c != nil {
		return toolResult{}, c
	}
	if exit := new(exec.ExitError); err != nil && (!errors.As(err, &exit) || !exit.Exited()) {
		return toolResult{}, fmt.Errorf("%s: %w: %s", program, err, text(stderr.String()))
	}
	if stdout.cut {
		return toolResult{}, fmt.Errorf("%s wrote more than %d bytes", program, maxToolOutput)
	}
	said := text(stdout.String())
	if stderr.Len() > 0 {
		said += " " + text(stderr.String())
	}
	return toolResult{out: stdout.Bytes(), said: said, code: cmd.ProcessState.ExitCode()}, nil
}

// toolResult is how a program ended.
type toolResult struct {
	out  []byte // its standard output
	said string // all that it wrote, as far as an error shows it
	code int
}

// startWithoutNewPrivileges starts the program with no_new_privs, so that no set-uid program helps it.
func startWithoutNewPrivileges(cmd *exec.Cmd) error {
	started := make(chan error)
	go func() {
		// no_new_privs is a thread's, is inherited, and stays: the thread ends with this goroutine.
		runtime.LockOSThread()
		err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
		if err == nil {
			err = cmd.Start()
		}
		started <- err
	}()
	return <-started
}

// limited takes as much as a program may say, and passes over the rest.
type limited struct {
	bytes.Buffer
	cut bool
}

func (l *limited) Write(p []byte) (int, error) {
	if l.Len()+len(p) > maxToolOutput {
		l.cut = true
		return len(p), nil
	}
	return l.Buffer.Write(p)
}

// text makes what a program said of a guest's disk fit for an error.
func text(s string) string {
	s = strings.TrimSpace(s)
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return ' '
		}
		return r
	}, s[:min(len(s), maxToolText)])
}
