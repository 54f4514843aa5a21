package logfile

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
)

func lines(t *testing.T, f *Follower) (all []string) {
	t.Helper()
	for {
		line, err := f.Line()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, string(line))
	}
}

func TestALogIsFollowedOverRotations(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	f, err := Follow(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got := lines(t, f); got != nil {
		t.Errorf("a log that does not exist has %q", got)
	}
	l, err := Create(path, 2000)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	next := 0
	for i := range 2000 {
		if _, err := fmt.Fprintf(l, "line %d\n", i); err != nil {
			t.Fatal(err)
		}
		if i%11 != 0 {
			continue
		}
		for _, line := range lines(t, f) {
			if line != fmt.Sprintf("line %d\n", next) {
				t.Fatalf("got %q, want line %d", line, next)
			}
			next++
		}
	}
	if next < 1990 {
		t.Errorf("%d lines were seen", next)
	}
	// A reader that is too slow misses some, and gets the newest.
	for i := range 2000 {
		fmt.Fprintf(l, "late %d\n", i)
	}
	late := lines(t, f)
	if len(late) < 100 || late[len(late)-1] != "late 1999\n" {
		t.Errorf("%d late lines", len(late))
	}
}

func TestHalfALineIsReadWhenItIsWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(path, []byte("one\ntw"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := Follow(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got := fmt.Sprint(lines(t, f)); got != "[one\n]" {
		t.Errorf("got %q", got)
	}
	if rest, err := f.Rest(); string(rest) != "tw" || err != nil {
		t.Errorf("the rest is %q, %v", rest, err)
	}
	// The next writer cuts off what a killed one left.
	l, err := Append(path, 1000)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := l.Write([]byte("three\n")); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(lines(t, f)); got != "[three\n]" {
		t.Errorf("got %q", got)
	}
	if b, err := os.ReadFile(path); string(b) != "one\nthree\n" {
		t.Errorf("the log is %q, %v", b, err)
	}
}
