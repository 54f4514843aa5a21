package container

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

func newStore(t *testing.T) *Store {
	t.Helper()
	dir := t.TempDir()
	return New(filepath.Join(dir, "data"), filepath.Join(dir, "run"))
}

func create(t *testing.T, s *Store, r Record) *Handle {
	t.Helper()
	h, err := s.Create(context.Background(), r)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestAContainerIsFoundByNameAndByTheBeginningOfItsID(t *testing.T) {
	s := newStore(t)
	create(t, s, Record{ID: "aa11", Name: "one", State: "running"})
	create(t, s, Record{ID: "aa22", Name: "two", State: "running"})
	for ref, want := range map[string]string{"one": "aa11", "aa22": "aa22", "aa1": "aa11"} {
		e, err := s.Find(ref)
		if err != nil || e.ID != want || !e.Alive {
			t.Errorf("Find(%q) = %+v, %v", ref, e, err)
		}
	}
	if _, err := s.Find("aa"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("an ambiguous id: %v", err)
	}
	if _, err := s.Find("three"); !errdefs.IsNotFound(err) {
		t.Errorf("an unknown name: %v", err)
	}
}

func TestANameBelongsToOneContainer(t *testing.T) {
	s := newStore(t)
	h := create(t, s, Record{ID: "a", Name: "web", State: "running"})
	if _, err := s.Create(context.Background(), Record{ID: "b", Name: "web"}); !errdefs.IsAlreadyExists(err) {
		t.Fatalf("a second container of the name: %v", err)
	}
	if left, err := os.ReadDir(filepath.Join(s.dataDir, "containers")); err != nil || len(left) != 1 {
		t.Errorf("left over: %v, %v", left, err)
	}
	if err := h.Close("web", true); err != nil {
		t.Fatal(err)
	}
	create(t, s, Record{ID: "c", Name: "web", State: "running"})
}

func TestTheEndOfAMonitorThatDiedIsWritten(t *testing.T) {
	s := newStore(t)
	h := create(t, s, Record{ID: "a", Name: "kept", State: "running"})
	g := create(t, s, Record{ID: "b", Name: "gone", State: "running", Remove: true})
	for _, dead := range []*Handle{h, g} { // as the kernel does when a process dies
		if err := dead.lock.Close(); err != nil {
			t.Fatal(err)
		}
	}
	all, err := s.List()
	if err != nil || len(all) != 1 {
		t.Fatalf("%d containers, %v", len(all), err)
	}
	if e := all[0]; e.Alive || e.State != "stopped" || e.ExitCode != 137 || e.Error == "" || e.Finished.IsZero() {
		t.Errorf("%+v", e.Record)
	}
	for _, dir := range []string{h.RunDir, g.RunDir, g.Dir, filepath.Join(s.dataDir, "names", "gone")} {
		if _, err := os.Lstat(dir); !os.IsNotExist(err) {
			t.Errorf("%s is left", dir)
		}
	}
	create(t, s, Record{ID: "c", Name: "gone", State: "running"})
}

func TestOnlyAContainerWithoutMonitorIsDiscarded(t *testing.T) {
	s := newStore(t)
	h := create(t, s, Record{ID: "a", Name: "web", State: "running"})
	e, err := s.Find("web")
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Discard(); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("discarded under its monitor: %v", err)
	}
	if err := h.Close("web", false); err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for range 4 { // lists hold the lock shared for a moment
		group.Go(func() {
			for range 50 {
				_, _ = s.List()
			}
		})
	}
	if err := e.Discard(); err != nil {
		t.Error(err)
	}
	group.Wait()
	if left, err := s.List(); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestADirectoryWhoseMakerDiedIsSwept(t *testing.T) {
	s := newStore(t)
	dir := filepath.Join(s.dataDir, "containers", tmpPrefix+"x")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := s.List(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); err != nil {
		t.Fatalf("swept while it may still be made: %v", err)
	}
	old := time.Now().Add(-time.Minute)
	if err := os.Chtimes(dir, old, old); err != nil {
		t.Fatal(err)
	}
	if _, err := s.List(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("left: %v", err)
	}
}
