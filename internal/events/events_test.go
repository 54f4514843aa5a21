package events

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
)

func readAll(t *testing.T, r *Reader) (all []Event) {
	t.Helper()
	for {
		e, err := r.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
	}
}

func TestManyWritersAndAReaderThatFollows(t *testing.T) {
	dir := t.TempDir()
	l := Open(dir)
	r, err := l.Read()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if got := readAll(t, r); len(got) != 0 {
		t.Fatalf("a log that does not exist has %v", got)
	}
	var group sync.WaitGroup
	const writers, each = 8, 50
	for w := range writers {
		group.Go(func() {
			own := Open(dir)
			for i := range each {
				if err := own.Write(Event{Type: Container, Action: "start", ID: fmt.Sprint(w), Attributes: map[string]string{"n": fmt.Sprint(i)}}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	all := readAll(t, r)
	if len(all) != writers*each {
		t.Fatalf("%d events, want %d", len(all), writers*each)
	}
	next := map[string]int{}
	for i, e := range all {
		if e.Attributes["n"] != fmt.Sprint(next[e.ID]) {
			t.Errorf("event %s of %s, want %d", e.Attributes["n"], e.ID, next[e.ID])
		}
		next[e.ID]++
		if i > 0 && e.Time.Before(all[i-1].Time) {
			t.Errorf("event %d is older than the one before", i)
		}
	}
}

func TestTheLogIsBoundedAndAReaderFollowsOverARotation(t *testing.T) {
	l := Open(t.TempDir())
	l.half = 4096
	r, err := l.Read()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	n := 0
	for i := range 500 {
		if err := l.Write(Event{Type: Container, Action: "start", ID: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
		if i%7 == 0 {
			for _, e := range readAll(t, r) {
				if e.ID != fmt.Sprint(n) {
					t.Fatalf("event %s, want %d", e.ID, n)
				}
				n++
			}
		}
	}
	if n < 490 {
		t.Errorf("%d events were seen", n)
	}
	var size int64
	for _, path := range []string{l.path(), l.path() + ".1"} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		size += info.Size()
	}
	if size > 8192 {
		t.Errorf("%d bytes", size)
	}
}

func TestALineThatAKilledWriterLeftDoesNotSpoilTheNext(t *testing.T) {
	l := Open(t.TempDir())
	if err := l.Write(Event{Type: Container, Action: "create", ID: "a"}); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(l.path(), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"time":"2026-`); err != nil {
		t.Fatal(err)
	}
	f.Close()
	long := map[string]string{"name": "web", "label": strings.Repeat("x", 1<<20)}
	if err := l.Write(Event{Type: Container, Action: "start", ID: "a", Attributes: long}); err != nil {
		t.Fatal(err)
	}
	r, err := l.Read()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	all := readAll(t, r)
	if len(all) != 2 || all[1].Action != "start" || all[1].Attributes["name"] != "web" || all[1].Attributes["label"] != "" {
		t.Errorf("got %d events: %.300v", len(all), all)
	}
}
