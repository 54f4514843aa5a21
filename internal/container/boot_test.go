package container

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
)

const (
	root    = "/run/engine"
	webID   = "web-1"
	earlier = "11111111-2222-4333-8444-555555555555"
)

// ranUntilNow leaves an engine's container whose monitor was killed, of some boot.
func ranUntilNow(t *testing.T, s *Store, boot string) *Handle {
	t.Helper()
	h := create(t, s, Record{ID: BundleID(root, webID), Name: webID, State: "running", Pid: 1, Bundle: &Bundle{Root: root, ID: webID, BootID: boot}})
	die(t, h)
	return h
}

func gone(t *testing.T, path string) bool {
	t.Helper()
	_, err := os.Lstat(path)
	return errors.Is(err, fs.ErrNotExist)
}

func TestABootIsTheEndOfAnEnginesContainer(t *testing.T) {
	if BootID() == "" {
		t.Fatal("the host's boot has no id")
	}
	for name, remove := range map[string]func(*Store) error{
		"create": func(s *Store) error { return s.ClearBundle(root, webID) },
		"list":   func(s *Store) error { _, err := s.List(); return err },
		"gc": func(s *Store) error {
			items, err := s.Garbage(context.Background())
			if err != nil || len(items) != 1 || items[0].Why == "" {
				t.Errorf("gc shows %+v, %v", items, err)
				return err
			}
			_, err = items[0].Remove(context.Background())
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			h := ranUntilNow(t, s, earlier)
			if e, err := s.FindBundle(root, webID); !errdefs.IsNotFound(err) {
				t.Errorf("the engine finds %+v, %v", e, err)
			}
			if err := remove(s); err != nil {
				t.Fatal(err)
			}
			for _, path := range []string{h.Dir, h.RunDir, filepath.Join(s.names(), webID)} {
				if !gone(t, path) {
					t.Errorf("%s is left", path)
				}
			}
			ranUntilNow(t, s, BootID()) // the id and the name are free
		})
	}
}

func TestAnEnginesContainerOfThisBootStays(t *testing.T) {
	s := newStore(t)
	ranUntilNow(t, s, BootID())
	if err := s.ClearBundle(root, webID); err != nil {
		t.Fatal(err)
	}
	if items, err := s.Garbage(context.Background()); err != nil || len(items) != 0 {
		t.Errorf("gc shows %+v, %v", items, err)
	}
	if all, err := s.List(); err != nil || len(all) != 1 {
		t.Errorf("list has %d, %v", len(all), err)
	}
	if e, err := s.FindBundle(root, webID); err != nil || e.State != stateStopped {
		t.Errorf("the engine finds %+v, %v", e, err)
	}
}

func TestWhatAPowerFailureLeavesIsInNoCreationsWay(t *testing.T) {
	for name, leave := range map[string]func(*Store) string{
		"a state without content": func(s *Store) string {
			h := ranUntilNow(t, s, BootID())
			if err := os.WriteFile(filepath.Join(h.Dir, stateFile), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			return h.Dir
		},
		"a removal that was interrupted": func(s *Store) string { return mkdir(t, s.containers(), BundleID(root, webID)) },
		"a creation that was interrupted": func(s *Store) string {
			dir := mkdir(t, s.containers(), tmpPrefix+BundleID(root, webID))
			old(t, dir)
			return dir
		},
		"nothing": func(s *Store) string { return mkdir(t, s.containers()) + "/none" },
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			left := leave(s)
			if _, err := s.FindBundle(root, webID); !errdefs.IsNotFound(err) {
				t.Errorf("the engine finds it: %v", err)
			}
			if err := s.ClearBundle(root, webID); err != nil {
				t.Fatal(err)
			}
			if !gone(t, left) {
				t.Errorf("%s is left", left)
			}
			ranUntilNow(t, s, BootID())
		})
	}
}

func TestWhatAContainerOfAnotherBootHasWrittenIsRemovedByGCAlone(t *testing.T) {
	s := newStore(t)
	h := ranUntilNow(t, s, earlier)
	disk := filepath.Join(h.Dir, DiskFile)
	if err := os.WriteFile(disk, []byte("written"), 0o600); err != nil {
		t.Fatal(err)
	}
	if all, err := s.List(); err != nil || len(all) != 1 || gone(t, disk) {
		t.Fatalf("list has %d, %v; the disk is gone: %t", len(all), err, gone(t, disk))
	}
	items, err := s.Garbage(context.Background())
	if err != nil || len(items) != 1 {
		t.Fatalf("gc shows %+v, %v", items, err)
	}
	if removed, err := items[0].Remove(context.Background()); !removed || err != nil || !gone(t, h.Dir) {
		t.Errorf("removed %t, %v", removed, err)
	}
}

func TestGCLeavesAContainerThatWasMadeAnewMeanwhile(t *testing.T) {
	s := newStore(t)
	ranUntilNow(t, s, earlier)
	items, err := s.Garbage(context.Background())
	if err != nil || len(items) != 1 {
		t.Fatalf("gc shows %+v, %v", items, err)
	}
	if err := s.ClearBundle(root, webID); err != nil {
		t.Fatal(err)
	}
	h := ranUntilNow(t, s, BootID())
	if removed, err := items[0].Remove(context.Background()); removed || err != nil || gone(t, h.Dir) {
		t.Errorf("removed %t, %v", removed, err)
	}
}

func TestAContainerOfAnUnknownBootIsOfThisOne(t *testing.T) {
	s := newStore(t)
	ranUntilNow(t, s, "")
	if _, err := s.FindBundle(root, webID); err != nil {
		t.Error(err)
	}
}

func TestAnIDThatSeveralEnginesUseIsAmbiguous(t *testing.T) {
	s := newStore(t)
	for name, root := range map[string]string{"one": root, "two": "/run/other"} {
		die(t, create(t, s, Record{ID: BundleID(root, webID), Name: name, State: "running", Pid: 1,
			Bundle: &Bundle{Root: root, ID: webID, BootID: BootID()}}))
	}
	if e, err := s.Find(webID); !errdefs.IsInvalidArgument(err) {
		t.Errorf("found %+v, %v", e, err)
	}
	if e, err := s.Find("two"); err != nil || e.Bundle.Root != "/run/other" {
		t.Errorf("by its name: %+v, %v", e, err)
	}
}
