package container

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
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
	// Its lock is held as long as a monitor's: a handle that nobody looks at any more would be closed by the collector.
	t.Cleanup(func() { runtime.KeepAlive(h) })
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

func TestADamagedStateIsSeenAndCanBeRemoved(t *testing.T) {
	s := newStore(t)
	h := create(t, s, Record{ID: "damaged", Name: "web", State: "running"})
	if err := os.WriteFile(filepath.Join(h.Dir, stateFile), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	h.lock.Close() // the monitor's end
	e, err := s.Find("damaged")
	if err != nil || e.State != stateStopped || e.ExitCode != exitKilled || e.Error == "" {
		t.Fatalf("got %+v, %v", e, err)
	}
	if _, err := s.Create(context.Background(), Record{ID: "b", Name: "web"}); !errdefs.IsAlreadyExists(err) {
		t.Errorf("its name was given away: %v", err)
	}
	if err := e.Discard(); err != nil {
		t.Error(err)
	}
	if all, err := s.List(); len(all) != 0 || err != nil {
		t.Errorf("left: %v, %v", all, err)
	}
}

func TestOfManyThatWantANameOneGetsIt(t *testing.T) {
	s := newStore(t)
	for range 20 {
		// A name whose owner has gone is where one could take another's away.
		if err := os.MkdirAll(s.names(), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("gone", filepath.Join(s.names(), "web")); err != nil {
			t.Fatal(err)
		}
		var group sync.WaitGroup
		handles := make(chan *Handle, 8)
		for i := range cap(handles) {
			group.Go(func() {
				h, err := s.Create(context.Background(), Record{ID: string(rune('a' + i)), Name: "web", State: "running"})
				if err == nil {
					handles <- h
				} else if !errdefs.IsAlreadyExists(err) {
					t.Error(err)
				}
			})
		}
		group.Wait()
		if len(handles) != 1 {
			t.Fatalf("%d containers have the name", len(handles))
		}
		if err := (<-handles).Close("web", true); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAnEndIsAwaited(t *testing.T) {
	s := newStore(t)
	h := create(t, s, Record{ID: "a", Name: "web", State: "running"})
	e, err := s.Find("a")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := e.AwaitEnd(ctx); err == nil {
		t.Error("a container that lives has ended")
	}
	h.lock.Close()
	if err := e.AwaitEnd(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestTheStateHasARoomKeptForItsEnd(t *testing.T) {
	dir := t.TempDir()
	path, spare := filepath.Join(dir, stateFile), filepath.Join(dir, reserveFile)
	if err := writeState(dir, Record{ID: "a", State: "running", Command: []string{strings.Repeat("x", 100<<10)}}); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(spare)
	if err != nil {
		t.Fatal(err)
	}
	if blocks := info.Sys().(*syscall.Stat_t).Blocks * 512; info.Size() < 160<<10 || blocks < info.Size() {
		t.Errorf("%d bytes with %d on disk are kept", info.Size(), blocks)
	}
	if err := spendReserve(spare, path, []byte(`{"id":"a","exit_code":7}`)); err != nil {
		t.Fatal(err)
	}
	var got Record
	if err := readFile(path, &got); err != nil || got.ExitCode != 7 {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := os.Stat(spare); !os.IsNotExist(err) {
		t.Errorf("the reserve is there still: %v", err)
	}
}

func TestNamesAreDockers(t *testing.T) {
	long := strings.Repeat("a", maxName)
	for name, want := range map[string]bool{
		"a": true, "A9": true, "0_.-": true, long: true,
		"": false, "_a": false, ".a": false, "-a": false, "a/b": false, "a b": false, "é": false, "a\n": false, long + "a": false,
	} {
		if got := ValidName(name); got != want {
			t.Errorf("ValidName(%q) = %t", name, got)
		}
	}
}
