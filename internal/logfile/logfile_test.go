package logfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func contents(t *testing.T, path string) string {
	t.Helper()
	r, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestALogStaysUnderItsBoundAndKeepsTheEnd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	const limit = 1000
	l, err := Create(path, limit)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for range 5000 {
		if _, err := l.Write([]byte("line\n")); err != nil {
			t.Fatal(err)
		}
		var size int64
		for _, name := range []string{path, Older(path)} {
			if info, err := os.Stat(name); err == nil {
				size += info.Size()
			}
		}
		if size > limit {
			t.Fatalf("%d bytes on disk", size)
		}
	}
	if _, err := l.Write([]byte(strings.Repeat("x", 3*limit) + "end")); err != nil {
		t.Fatal(err)
	}
	if got := contents(t, path); !strings.HasSuffix(got, "xend") || len(got) > limit {
		t.Errorf("%d bytes, ending in %q", len(got), got[max(0, len(got)-10):])
	}
}

func TestTailShowsNothingThatATerminalActsOn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(path, []byte("one\ntwo\r\n\x1b[31mthree\xff\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, want := Tail(path, 2), "two\n?[31mthree?"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := Tail(path+".missing", 2); got != "" {
		t.Errorf("a missing log gives %q", got)
	}
}

func TestEveryByteOfTheOutputComesBackOnItsStream(t *testing.T) {
	random := make([]byte, 200<<10)
	rand.New(rand.NewSource(1)).Read(random)
	for name, streams := range map[string][2][]byte{
		"lines":           {[]byte("a\nb\n"), []byte("c\n")},
		"no newline":      {[]byte("a"), nil},
		"empty lines":     {[]byte("\n\n\n"), []byte("\n")},
		"long line":       {bytes.Repeat([]byte("x"), 3*maxLine+7), []byte("y\n")},
		"exactly a line":  {append(bytes.Repeat([]byte("x"), maxLine), '\n'), nil},
		"bytes of random": {random, random[:1000]},
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			o := NewOutput(&log)
			for i, stream := range []string{"stdout", "stderr"} {
				w := o.Stream(stream)
				for rest := streams[i]; len(rest) > 0; {
					n := min(len(rest), 5000)
					if _, err := w.Write(rest[:n]); err != nil {
						t.Fatal(err)
					}
					rest = rest[n:]
				}
			}
			var stdout, stderr bytes.Buffer
			if err := Copy(&stdout, &stderr, &log); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(stdout.Bytes(), streams[0]) || !bytes.Equal(stderr.Bytes(), streams[1]) {
				t.Errorf("%d and %d bytes came back of %d and %d", stdout.Len(), stderr.Len(), len(streams[0]), len(streams[1]))
			}
		})
	}
}

func TestACutLogIsReadFromItsFirstWholeEntry(t *testing.T) {
	log := "tdout F cut\n2026-01-01T00:00:00Z stdout F whole\n2026-01-01T00:00:00Z stdout P unfinis"
	var out bytes.Buffer
	if err := Copy(&out, io.Discard, strings.NewReader(log)); err != nil || out.String() != "whole\n" {
		t.Errorf("got %q, %v", out.String(), err)
	}
	if err := Copy(&out, io.Discard, strings.NewReader("2026 stdout F a\nnonsense\n")); err == nil {
		t.Error("an entry that is none was accepted")
	}
}

func TestOutputThatFillsTheSmallestLogIsReadBackFromAWholeEntry(t *testing.T) {
	for name, line := range map[string]string{
		"empty lines": "\n", "short lines": "line\n", "lines longer than an entry": strings.Repeat("x", 3*maxLine) + "\n",
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "log")
			const limit = 64 << 10 // the least that log.max_size may be
			l, err := Create(path, limit)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			w := NewOutput(l).Stream("stdout")
			for range 3 {
				// As much as one frame of a stream carries.
				if _, err := io.WriteString(w, strings.Repeat(line, max(1, 64<<10/len(line)))); err != nil {
					t.Fatal(err)
				}
				var out bytes.Buffer
				if err := Copy(&out, io.Discard, strings.NewReader(contents(t, path))); err != nil {
					t.Fatalf("%v in a log of %d bytes", err, len(contents(t, path)))
				}
				if out.Len() == 0 || !strings.HasSuffix(out.String(), "\n") {
					t.Fatalf("%d bytes came back", out.Len())
				}
			}
		})
	}
}

func TestTailReachesIntoTheOlderHalf(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	for name, text := range map[string]string{Older(path): "one\ntwo\nthr", path: "ee\nfour\n"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := Tail(path, 3), "two\nthree\nfour"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestALogIsReadWithoutAGapWhileItIsRotated(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	l, err := Create(path, 2000)
	if err != nil {
		t.Fatal(err)
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				fmt.Fprintf(l, "%d\n", i)
			}
		}
	}()
	defer func() { close(stop); <-stopped; l.Close() }()
	for range 300 {
		last := -1
		for line := range strings.Lines(contents(t, path)) {
			var n int
			if _, err := fmt.Sscanf(line, "%d\n", &n); err != nil {
				break // the last one is being written
			}
			if last >= 0 && n != last+1 {
				t.Fatalf("%d is followed by %d", last, n)
			}
			last = n
		}
	}
}

// TestAFullDiskStopsNobody writes to a file that has no room: /dev/full of full(4) in the log's place.
func TestAFullDiskStopsNobody(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	l, err := Create(path, 1000)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := io.WriteString(l, "kept\n"); err != nil {
		t.Fatal(err)
	}
	whole := l.f
	if l.f, err = os.OpenFile("/dev/full", os.O_WRONLY, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Write([]byte("lost\n")); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("a write gives %v", err)
	}
	if n, err := l.Lossy().Write([]byte("lost\n")); n != 5 || err != nil {
		t.Errorf("a lossy write gives %d, %v", n, err)
	}
	l.f.Close()
	l.f = whole
	if _, err := io.WriteString(l.Lossy(), "kept again\n"); err != nil {
		t.Fatal(err)
	}
	if lost, why := l.Lost(); lost != 5 || !errors.Is(why, unix.ENOSPC) {
		t.Errorf("%d bytes lost, %v", lost, why)
	}
	if got, want := contents(t, path), "kept\nkept again\n"; got != want {
		t.Errorf("the log has %q, want %q", got, want)
	}
}

func TestARotationThatFailedIsDoneLater(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	l, err := Create(path, 20)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := io.WriteString(l, "12345678\n"); err != nil {
		t.Fatal(err)
	}
	// As it is after a rename without the open that follows it.
	if err := os.Rename(path, Older(path)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(l, "abcdefgh\n"); err != nil {
		t.Fatal(err)
	}
	if got, want := contents(t, path), "12345678\nabcdefgh\n"; got != want {
		t.Errorf("the log has %q, want %q", got, want)
	}
}
