package container

import (
	"os"
	"path/filepath"
	"testing"
)

func TestANamespaceIsGarbageWhenItsContainerHasNoMonitor(t *testing.T) {
	s := newStore(t)
	living := create(t, s, Record{ID: id(1), Name: "living", State: "running"})
	defer die(t, living)
	ended := create(t, s, Record{ID: id(2), Name: "ended", State: "stopped"})
	if err := ended.Close("ended", false); err != nil {
		t.Fatal(err)
	}
	// Its record of networks says that they are to be undone with the namespace.
	written := create(t, s, Record{ID: id(3), Name: "written", State: "stopped"})
	if err := written.Close("written", false); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.containers(), id(3), "network.json"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	// As they are after a start of the host: the files are there, and nothing is mounted on them.
	file := func(dataDir, id string, touched bool) string {
		path := NewNamespacePath(dataDir, s.runDir, id)
		mkdir(t, filepath.Dir(path))
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if !touched {
			old(t, path)
		}
		return path
	}
	garbage := map[string]bool{file(s.dataDir, id(2), false): true, file(s.dataDir, id(4), false): true}
	kept := []string{
		file(s.dataDir, id(1), false), file(s.dataDir, id(3), false), file(s.dataDir, id(5), true), file("/elsewhere", id(6), false),
	}
	items, err := s.orphanedNamespaces()
	if err != nil || len(items) != len(garbage) {
		t.Fatalf("%+v, %v", items, err)
	}
	for _, i := range items {
		if removed, err := i.Remove(t.Context()); !garbage[i.Path] || !removed || err != nil {
			t.Errorf("%s: %v, %v", i.Path, removed, err)
		}
		if _, err := os.Lstat(i.Path); err == nil {
			t.Errorf("%s is left", i.Path)
		}
	}
	for _, path := range kept {
		if _, err := os.Lstat(path); err != nil {
			t.Error(err)
		}
	}
}
