package container

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/runcvm/runcvm/internal/garbage"
	"github.com/runcvm/runcvm/internal/garbage/garbagetest"
)

func id(n int) string { return fmt.Sprintf("%064x", n) }

// old makes a path look as if nobody had touched it for long.
func old(t *testing.T, path string) {
	t.Helper()
	then := time.Now().Add(-time.Hour)
	if err := os.Chtimes(path, then, then); err != nil {
		t.Fatal(err)
	}
}

func mkdir(t *testing.T, parts ...string) string {
	t.Helper()
	path := filepath.Join(parts...)
	if err := os.MkdirAll(path, 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// die ends a container's owner as a SIGKILL does.
func die(t *testing.T, h *Handle) {
	t.Helper()
	if err := h.lock.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestGarbageIsWhatNobodyOwns(t *testing.T) {
	s := newStore(t)
	living := create(t, s, Record{ID: id(1), Name: "living", State: "running", Remove: true})
	ended := create(t, s, Record{ID: id(2), Name: "ended", State: "stopped"})
	if err := ended.Close("ended", false); err != nil {
		t.Fatal(err)
	}
	die(t, create(t, s, Record{ID: id(3), Name: "dead", State: "running", Remove: true, Pid: 1}))
	interrupted := mkdir(t, s.containers(), id(4))
	unfinished := mkdir(t, s.containers(), tmpPrefix+id(5))
	old(t, unfinished)
	begun := mkdir(t, s.containers(), tmpPrefix+id(6)) // a moment ago
	orphan := mkdir(t, s.runDir, id(7))
	old(t, orphan)
	foreign := mkdir(t, s.runDir, "something-else")
	old(t, foreign)
	elsewhere := mkdir(t, s.runDir, id(8)) // of a container in another data directory
	// Named by a descriptor: an address has 107 bytes at most.
	at, err := os.Open(elsewhere)
	if err != nil {
		t.Fatal(err)
	}
	defer at.Close()
	l, err := net.Listen("unix", fmt.Sprintf("/proc/self/fd/%d/s", at.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	old(t, elsewhere)
	tree := mkdir(t, s.containers(), id(2), ".tree-1")
	mkdir(t, s.containers(), id(1), ".tree-1")
	nothing := filepath.Join(s.names(), "nothing")
	if err := os.Symlink(id(9), nothing); err != nil {
		t.Fatal(err)
	}

	items, err := s.Garbage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, i := range items {
		if i.Why == "" || i.Kind == "" {
			t.Errorf("%+v says too little", i)
		}
		paths = append(paths, i.Path)
	}
	want := []string{filepath.Join(s.containers(), id(3)), interrupted, unfinished, orphan, tree, nothing}
	slices.Sort(paths)
	slices.Sort(want)
	if !slices.Equal(paths, want) {
		t.Fatalf("garbage is\n%s\nwant\n%s", strings.Join(paths, "\n"), strings.Join(want, "\n"))
	}
	for _, i := range items {
		if removed, err := i.Remove(t.Context()); !removed || err != nil {
			t.Errorf("%s: removed %t, %v", i.Path, removed, err)
		}
	}
	for _, path := range want {
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("%s is still there", path)
		}
	}
	for _, path := range []string{living.Dir, living.RunDir, ended.Dir, begun, foreign, elsewhere} {
		if _, err := os.Lstat(path); err != nil {
			t.Error(err)
		}
	}
	if e, err := s.Find("living"); err != nil || !e.Alive {
		t.Errorf("the living container: %+v, %v", e, err)
	}
	if again, err := s.Garbage(t.Context()); err != nil || len(again) > 0 {
		t.Errorf("a second look finds %+v, %v", again, err)
	}
}

func TestGarbageThatIsOwnedMeanwhileStays(t *testing.T) {
	s := newStore(t)
	create(t, s, Record{ID: id(1), Name: "one", State: "running"})
	nothing := filepath.Join(s.names(), "free")
	if err := os.Symlink(id(3), nothing); err != nil {
		t.Fatal(err)
	}
	old(t, mkdir(t, s.runDir, id(2)))
	items, err := s.Garbage(t.Context())
	if err != nil || len(items) != 2 {
		t.Fatalf("%+v, %v", items, err)
	}
	if err := os.RemoveAll(filepath.Join(s.runDir, id(2))); err != nil {
		t.Fatal(err)
	}
	h := create(t, s, Record{ID: id(2), Name: "free", State: "running"})
	for _, i := range items {
		if removed, err := i.Remove(t.Context()); removed || err != nil {
			t.Errorf("%s: removed %t, %v", i.Path, removed, err)
		}
	}
	if e, err := s.Find("free"); err != nil || !e.Alive {
		t.Errorf("%+v, %v", e, err)
	}
	if _, err := os.Stat(h.RunDir); err != nil {
		t.Error(err)
	}
}

func TestContainersAreMadeAndRemovedWhileGarbageIsCollected(t *testing.T) {
	s := newStore(t)
	stop := garbagetest.Collect(t, func() ([]garbage.Item, error) { return s.Garbage(t.Context()) })
	var makers sync.WaitGroup
	for m := range 4 {
		makers.Go(func() {
			for n := range 50 {
				name := fmt.Sprintf("c%d", m)
				h, err := s.Create(t.Context(), Record{ID: id(m<<16 | n + 1), Name: name, State: "running", Remove: true})
				if err != nil {
					t.Error(err)
					return
				}
				for _, path := range []string{h.Dir, h.RunDir, filepath.Join(s.names(), name)} {
					if _, err := os.Lstat(path); err != nil {
						t.Errorf("a living container has lost something: %v", err)
					}
				}
				if err := h.Close(name, true); err != nil {
					t.Error(err)
				}
			}
		})
	}
	makers.Wait()
	stop()
}
