package qemu

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxMessages bounds what is kept of QEMU's messages, in bytes.
const maxMessages = 16 << 10

// process is a running QEMU.
type process struct {
	cmd      *exec.Cmd
	messages *tail
	exited   chan struct{}
	err      error // how it ended, once exited is closed
}

// spawn starts QEMU so that the kernel kills it when this process dies.
//
// PR_SET_PDEATHSIG follows the thread that forked, so that thread must live as long as QEMU: a goroutine keeps it.
func spawn(binary string, c *command) (*process, error) {
	p := &process{messages: &tail{}, exited: make(chan struct{})}
	p.cmd = exec.Command(binary, c.args...)
	p.cmd.ExtraFiles = c.files
	p.cmd.Stdout, p.cmd.Stderr = p.messages, p.messages
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		err := p.cmd.Start()
		started <- err
		if err != nil {
			return
		}
		p.err = p.cmd.Wait()
		close(p.exited)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start QEMU: %w", err)
	}
	return p, nil
}

// kill ends QEMU and waits for that.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // fails only when it has ended
	<-p.exited
}

// failure says how QEMU ended, with its own last words.
func (p *process) failure() error {
	how := "QEMU ended"
	if p.err != nil {
		how += " (" + p.err.Error() + ")"
	}
	if said := p.messages.text(); said != "" {
		return errors.New(how + ": " + said)
	}
	return errors.New(how)
}

// tail keeps the end of what is written to it.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - maxMessages; over > 0 {
		t.buf = bytes.Clone(t.buf[over:])
	}
	return len(p), nil
}

// text is what was kept, on one line and without QEMU's own name before each message.
func (t *tail) text() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	lines := strings.Split(strings.TrimSpace(string(t.buf)), "\n")
	for k, l := range lines {
		l = strings.TrimPrefix(l, "qemu-system-x86_64: ")
		lines[k] = strings.TrimPrefix(l, "qemu: ")
	}
	return strings.Join(lines, "; ")
}

// socketPair makes a connected pair: one end to be inherited by QEMU, the other for this process.
func socketPair(name string) (theirs *os.File, ours *net.UnixConn, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a socket pair for QEMU's %s: %w", name, err)
	}
	theirs = os.NewFile(uintptr(fds[0]), name)
	f := os.NewFile(uintptr(fds[1]), name)
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("QEMU's %s: %w", name, err), theirs.Close())
	}
	return theirs, conn.(*net.UnixConn), nil
}

// randomMAC makes a locally administered unicast address.
func randomMAC() (string, error) {
	var b [6]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", err
	}
	b[0] = b[0]&^1 | 2
	return net.HardwareAddr(b[:]).String(), nil
}
