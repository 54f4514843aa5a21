package guest

import (
	"bytes"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/guestapi"
)

// terminalTask is a process with a terminal in a container, without the process.
func terminalTask(t *testing.T) (e *task, slave *os.File, open func(guestapi.Stream) io.ReadWriteCloser) {
	t.Helper()
	c, dial := streamServer(t)
	e, err := c.execs.add("c", "e")
	if err != nil {
		t.Fatal(err)
	}
	master, slave, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slave.Close() })
	// Of its own, as crun sends it.
	fd, err := unix.FcntlInt(master.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	master.Close()
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		t.Fatal(err)
	}
	e.terminal = &terminal{os.NewFile(uintptr(fd), "master")}
	e.began(1 << 22)
	return e, slave, func(s guestapi.Stream) io.ReadWriteCloser {
		conn := dial()
		if err := guestapi.OpenStream(conn, "c", "e", s); err != nil {
			t.Fatal(err)
		}
		return conn
	}
}

func raw(t *testing.T, f *os.File) {
	t.Helper()
	mode, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	mode.Iflag, mode.Oflag, mode.Lflag = 0, 0, 0
	mode.Cc[unix.VMIN], mode.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, mode); err != nil {
		t.Fatal(err)
	}
}

func TestATerminalCarriesBothDirectionsToTheEnd(t *testing.T) {
	e, slave, open := terminalTask(t)
	raw(t, slave)
	in, out := open(guestapi.Stdin), open(guestapi.Stdout)
	e.pump([3]*os.File{})
	sent := make(chan error, 1)
	go func() { sent <- guestapi.Send(in, io.NopCloser(strings.NewReader("typed"))) }()
	buf := make([]byte, 5)
	if _, err := io.ReadFull(slave, buf); err != nil || string(buf) != "typed" {
		t.Errorf("%q, %v", buf, err)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
	in.Close()
	text := strings.Repeat("output\n", 100_000)
	go func() {
		_, _ = io.WriteString(slave, text)
		slave.Close()
		e.finish(exit{})
	}()
	var got bytes.Buffer
	if err := guestapi.Receive(out, &got); err != nil || got.String() != text {
		t.Errorf("%d bytes, %v", got.Len(), err)
	}
	out.Close()
	e.pumps.Wait()
}

func TestATerminalStaysWhenTheHostDetachesAndGoesWhenItIsLost(t *testing.T) {
	for name, leave := range map[string]func(out io.ReadWriteCloser) error{
		"detaches": func(out io.ReadWriteCloser) error { return guestapi.Accept(out) },
		"is lost":  func(out io.ReadWriteCloser) error { return out.Close() },
	} {
		e, slave, open := terminalTask(t)
		raw(t, slave)
		e.streams[guestapi.Stdin].close()
		out := open(guestapi.Stdout)
		e.pump([3]*os.File{})
		if err := leave(out); err != nil {
			t.Fatal(err)
		}
		if name == "detaches" {
			// More than the terminal holds: somebody reads it.
			if _, err := slave.Write(make([]byte, 1<<20)); err != nil {
				t.Errorf("the host %s: %v", name, err)
			}
			slave.Close()
		} else {
			for deadline := time.Now().Add(20 * time.Second); ; {
				if _, err := slave.Write([]byte("x")); err != nil {
					break
				}
				if time.Now().After(deadline) {
					t.Fatal("the terminal is not hung up")
				}
			}
		}
		e.finish(exit{})
		e.pumps.Wait()
	}
}

func TestATerminalsSize(t *testing.T) {
	e, slave, _ := terminalTask(t)
	if err := e.resize(&guestapi.ConsoleSize{Rows: 33, Columns: 99}); err != nil {
		t.Fatal(err)
	}
	if ws, err := pty.GetsizeFull(slave); err != nil || ws.Rows != 33 || ws.Cols != 99 {
		t.Errorf("%+v, %v", ws, err)
	}
	if err := e.resize(&guestapi.ConsoleSize{Rows: 1 << 16}); err == nil {
		t.Error("a size that there is not is taken")
	}
	e.finish(exit{})
	if err := e.resize(&guestapi.ConsoleSize{Rows: 1}); err == nil {
		t.Error("a process that has ended is resized")
	}
}

// TestOutputEndsSoonAfterItsProcess has another one keep the pipe open.
func TestOutputEndsSoonAfterItsProcess(t *testing.T) {
	child, ours, err := pipeFor(guestapi.Stdout)
	if err != nil {
		t.Fatal(err)
	}
	defer child.Close()
	text := strings.Repeat("x", 60_000)
	if _, err := io.WriteString(child, text); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	close(ended)
	o := newOutput(ours, ended, false)
	defer o.release()
	got, err := io.ReadAll(o)
	if err != nil || string(got) != text {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// TestOutputOfOthersDoesNotGoOnForEver has another one write to the pipe for ever.
func TestOutputOfOthersDoesNotGoOnForEver(t *testing.T) {
	child, ours, err := pipeFor(guestapi.Stdout)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			if _, err := child.Write(make([]byte, 4096)); err != nil {
				return
			}
		}
	}()
	defer ours.Close()
	ended := make(chan struct{})
	close(ended)
	o := newOutput(ours, ended, false)
	defer o.release()
	if _, err := io.Copy(io.Discard, o); err != nil {
		t.Error(err)
	}
	ours.Close()
}
