package container

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
)

func TestAContainerIsOwnedByOneAtATime(t *testing.T) {
	s := newStore(t)
	h := create(t, s, Record{ID: "a", Name: "web", State: stateCreated, Remove: true})
	if err := h.WriteRequest(map[string]string{"image": "x"}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Own("a"); !errors.Is(err, ErrOwned) {
		t.Errorf("owned twice: %v", err)
	}
	if err := h.Close("web", false); err != nil {
		t.Fatal(err)
	}
	// One that was only created is no orphan, and is there still although it is to be removed at its end.
	e, err := s.Find("web")
	if err != nil || e.Alive || e.State != stateCreated || e.ExitCode != 0 {
		t.Fatalf("got %+v, %v", e, err)
	}
	var req map[string]string
	if err := e.ReadRequest(&req); err != nil || req["image"] != "x" {
		t.Errorf("the request is %v, %v", req, err)
	}
	h, r, err := s.Own("a")
	if err != nil || r.Name != "web" {
		t.Fatalf("got %+v, %v", r, err)
	}
	if _, err := os.Stat(h.RunDir); err != nil {
		t.Error(err)
	}
	r.State, r.Pid = "running", 1
	if err := h.Update(r); err != nil {
		t.Fatal(err)
	}
	h.lock.Close() // the monitor's end
	// Who takes it over writes its end first.
	h, r, err = s.Own("a")
	if err != nil || r.State != stateStopped || r.ExitCode != exitKilled {
		t.Fatalf("got %+v, %v", r, err)
	}
	if err := h.Close("web", true); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Own("a"); !errdefs.IsNotFound(err) {
		t.Errorf("one that is gone: %v", err)
	}
}

func TestAContainerIsRenamed(t *testing.T) {
	s := newStore(t)
	r := Record{ID: "a", Name: "web", State: "running", Pid: 1}
	h := create(t, s, r)
	create(t, s, Record{ID: "b", Name: "db", State: "running"})
	if err := h.Rename(&r, "db"); !errdefs.IsAlreadyExists(err) || r.Name != "web" {
		t.Errorf("a name that is in use: %v", err)
	}
	if err := h.Rename(&r, "www"); err != nil || r.Name != "www" {
		t.Fatal(err)
	}
	if e, err := s.Find("www"); err != nil || e.ID != "a" {
		t.Errorf("got %+v, %v", e, err)
	}
	if _, err := os.Lstat(filepath.Join(s.names(), "web")); !os.IsNotExist(err) {
		t.Errorf("the former name is left: %v", err)
	}
	if err := h.Close(r.Name, true); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(filepath.Join(s.names(), "www")); !os.IsNotExist(err) {
		t.Errorf("the name is left: %v", err)
	}
}
