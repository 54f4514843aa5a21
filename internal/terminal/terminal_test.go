package terminal

import (
	"testing"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

func TestRawModeIsRestoredAlsoWhenTheFileIsClosed(t *testing.T) {
	master, slave, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	mode := func() unix.Termios {
		t.Helper()
		m, err := unix.IoctlGetTermios(int(master.Fd()), unix.TCGETS)
		if err != nil {
			t.Fatal(err)
		}
		return *m
	}
	if err := pty.Setsize(master, &pty.Winsize{Rows: 33, Cols: 99}); err != nil {
		t.Fatal(err)
	}
	if rows, columns := Size(slave); rows != 33 || columns != 99 || !Is(slave) {
		t.Errorf("%d by %d", rows, columns)
	}
	before := mode()
	restore, err := Raw(slave)
	if err != nil {
		t.Fatal(err)
	}
	if raw := mode(); raw.Lflag&(unix.ECHO|unix.ICANON|unix.ISIG) != 0 || raw.Oflag&unix.OPOST != 0 {
		t.Errorf("raw mode is %+v", raw)
	}
	slave.Close()
	restore()
	if after := mode(); after != before {
		t.Errorf("%+v, was %+v", after, before)
	}
}

func TestWhatIsNoTerminal(t *testing.T) {
	r, w, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	w.Close()
	if rows, columns := Size(w); rows != 0 || columns != 0 || Is(w) {
		t.Error("a closed file is a terminal")
	}
	if _, err := Raw(w); err == nil {
		t.Error("a closed file is set to raw mode")
	}
}
