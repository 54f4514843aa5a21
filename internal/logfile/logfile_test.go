package logfile

import (
	"bytes"
	"io"
	"math/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"
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
